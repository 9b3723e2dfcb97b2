//! Kernels of a Metal device: the system's compiler makes libraries of the sources when the device is opened, and a pipeline of each kernel when
//! it is first launched.

use super::call;
use super::memory::Object;
use crate::ops::gpu::device::{DeviceError, Kernel};
use crate::ops::gpu::metal_sources;
use objc2::rc::Retained;
use objc2_foundation::NSString;
use objc2_metal::{MTLCompileOptions, MTLComputePipelineState, MTLDevice, MTLLanguageVersion, MTLLibrary};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, PoisonError};

/// Threads of a SIMD group, which kernels rely on.
const SIMD_WIDTH: usize = 32;
/// Bytes of a threadgroup's memory: what every GPU of Apple's has.
const THREADGROUP_MEMORY: usize = 32 << 10;

/// A kernel that can be launched.
#[derive(Clone)]
pub(super) struct Pipeline {
    pub(super) state: Object<dyn MTLComputePipelineState>,
    /// Most threads of a block.
    most_threads: usize,
}

/// See the module.
pub(super) struct Pipelines {
    device: Object<dyn MTLDevice>,
    /// One of each file.
    libraries: Vec<Object<dyn MTLLibrary>>,
    made: Mutex<HashMap<Kernel, Pipeline>>,
}

impl Pipelines {
    /// Compiles all files.
    ///
    /// # Errors
    /// [`DeviceError::Call`] with what the compiler says.
    pub(super) fn compile(device: &Object<dyn MTLDevice>) -> Result<Self, DeviceError> {
        let options = options();
        let libraries = metal_sources::texts().map(|(name, text)| {
            let library = device.newLibraryWithSource_options_error(&NSString::from_str(&text), Some(&options));
            library.map_err(|error| call(format!("compiling {name}.metal"), error.localizedDescription()))
        });
        Ok(Self { device: device.clone(), libraries: libraries.collect::<Result<_, _>>()?, made: Mutex::default() })
    }

    /// A kernel, for blocks of so many threads.
    ///
    /// # Errors
    /// [`DeviceError::Call`] when there is no such kernel, or it is not made for this GPU.
    pub(super) fn get(&self, kernel: Kernel, threads: u32) -> Result<Pipeline, DeviceError> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let pipeline = match made.entry(kernel) {
            Entry::Occupied(there) => there.into_mut(),
            Entry::Vacant(room) => room.insert(self.make(&kernel.to_string())?),
        };
        if threads as usize > pipeline.most_threads {
            let most = pipeline.most_threads;
            return Err(call(kernel.to_string(), format!("blocks of {threads} threads, and this GPU runs at most {most} of them")));
        }
        Ok(pipeline.clone())
    }

    fn make(&self, name: &str) -> Result<Pipeline, DeviceError> {
        let wanted = NSString::from_str(name);
        let function = self.libraries.iter().find_map(|library| library.newFunctionWithName(&wanted));
        let function = function.ok_or_else(|| call(name, "no file has such a kernel"))?;
        let state = self.device.newComputePipelineStateWithFunction_error(&function);
        let state = state.map_err(|error| call(name, error.localizedDescription()))?;
        let (width, shared) = (state.threadExecutionWidth(), state.staticThreadgroupMemoryLength());
        if width != SIMD_WIDTH || shared > THREADGROUP_MEMORY {
            let limits = format!("{SIMD_WIDTH} threads and at most {THREADGROUP_MEMORY} bytes");
            return Err(call(name, format!("SIMD groups of {width} threads and {shared} bytes of a threadgroup, where it needs {limits}")));
        }
        Ok(Pipeline { most_threads: state.maxTotalThreadsPerThreadgroup(), state })
    }
}

/// bfloat needs version 3.1. Sums keep the order that is written, and NaN stays NaN.
fn options() -> Retained<MTLCompileOptions> {
    let options = MTLCompileOptions::new();
    options.setLanguageVersion(MTLLanguageVersion::Version3_1);
    // What takes its place, the math mode, is only there from macOS 15 on, and calling it before that would end the program.
    #[expect(deprecated)]
    options.setFastMathEnabled(false);
    options
}
