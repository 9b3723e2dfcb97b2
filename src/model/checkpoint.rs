//! The tensors of a checkpoint: one or several safetensors files or a GGUF file, mapped, or bytes inside the binary.

use super::LoadError;
use super::gguf::GgufWeights;
use super::json::JsonFile;
use super::tensor::Tensor;
use super::weight_cache::{FileIdentity, SourceIdentity};
use crate::ops::DType;
use candle_core::safetensors::{MmapedSafetensors, SliceSafetensors};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

/// One weight file.
enum Shard {
    Mapped(MmapedSafetensors),
    Embedded(SliceSafetensors<'static>),
    Gguf(GgufWeights),
}

/// All tensors of a model by name.
pub struct Checkpoint {
    shards: Vec<(String, Shard)>,
    /// Name to shard, sorted.
    tensors: BTreeMap<String, usize>,
    /// `None` when the tensors lie in memory, or the file system says too little of their files.
    identity: Option<SourceIdentity>,
}

impl std::fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Checkpoint({})", self.files())
    }
}

impl Checkpoint {
    /// Wraps a safetensors file that lies in memory.
    ///
    /// # Errors
    /// [`LoadError::Damaged`].
    pub fn embedded(name: &str, bytes: &'static [u8]) -> Result<Self, LoadError> {
        let shard = SliceSafetensors::new(bytes).map_err(|e| damaged(name, &e))?;
        Self::collect(vec![(name.to_string(), Shard::Embedded(shard))], None)
    }

    /// Wraps the tensors of the GGUF file `name`, of which `identity` is what the file system said before it was read.
    ///
    /// # Errors
    /// None in fact: its names are unique.
    pub(super) fn gguf(name: &str, weights: GgufWeights, identity: Option<FileIdentity>) -> Result<Self, LoadError> {
        Self::collect(vec![(name.to_string(), Shard::Gguf(weights))], identity.map(|file| SourceIdentity(vec![file])))
    }

    /// Maps `model.safetensors`, or the shards that `model.safetensors.index.json` names.
    ///
    /// # Errors
    /// [`LoadError`] naming the file that is missing or damaged.
    pub fn directory(path: &Path) -> Result<Self, LoadError> {
        let (single, index) = (path.join("model.safetensors"), path.join("model.safetensors.index.json"));
        let files = if index.exists() {
            shards_of(&index, path)?
        } else if single.exists() {
            vec![single]
        } else {
            let problem = "holds neither model.safetensors nor model.safetensors.index.json".to_string();
            return Err(LoadError::NotAModel { path: path.display().to_string(), problem });
        };
        // Taken before the files are read: should one change meanwhile, the identity is no longer the one on disk.
        let identity: Option<Vec<_>> = files.iter().map(|file| FileIdentity::of(file, &file.metadata().ok()?).ok()).collect();
        let shards = files.iter().map(|file| map_file(file)).collect::<Result<_, _>>()?;
        Self::collect(shards, identity.map(SourceIdentity))
    }

    fn collect(shards: Vec<(String, Shard)>, identity: Option<SourceIdentity>) -> Result<Self, LoadError> {
        let mut tensors = BTreeMap::new();
        for (index, (file, shard)) in shards.iter().enumerate() {
            let names: Vec<String> = match shard {
                Shard::Mapped(s) => s.tensors().into_iter().map(|(name, _)| name).collect(),
                Shard::Embedded(s) => s.tensors().into_iter().map(|(name, _)| name).collect(),
                Shard::Gguf(s) => s.names().map(str::to_string).collect(),
            };
            for name in names {
                if let Some(other) = tensors.insert(name.clone(), index) {
                    let detail = format!("tensor `{name}` stands in {} too", shards[other].0);
                    return Err(LoadError::Damaged { file: file.clone(), detail });
                }
            }
        }
        Ok(Self { shards, tensors, identity })
    }

    /// What the file system says of the weight files; `None` for weights inside the binary.
    pub fn identity(&self) -> Option<&SourceIdentity> {
        self.identity.as_ref()
    }

    /// All tensor names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Bytes of all tensors.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn bytes(&self) -> Result<u64, LoadError> {
        self.names().try_fold(0, |sum, name| Ok(sum + self.get(name)?.map_or(0, |tensor| tensor.byte_len() as u64)))
    }

    /// The files, for messages.
    pub fn files(&self) -> String {
        self.shards.iter().map(|(file, _)| file.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// The file that holds `name`.
    pub fn file_of(&self, name: &str) -> Option<&str> {
        self.tensors.get(name).map(|&index| self.shards[index].0.as_str())
    }

    /// Tensor `name`, `None` when there is none.
    ///
    /// # Errors
    /// [`LoadError::Dtype`] for a dtype that is not served.
    pub fn get(&self, name: &str) -> Result<Option<Tensor<'_>>, LoadError> {
        let Some(&index) = self.tensors.get(name) else { return Ok(None) };
        let (file, shard) = &self.shards[index];
        let view = match shard {
            Shard::Mapped(s) => s.get(name),
            Shard::Embedded(s) => s.get(name),
            Shard::Gguf(s) => return Ok(s.get(file, name)),
        }
        .map_err(|e| damaged(file, &e))?;
        tensor(file, name, (view.dtype(), view.shape(), view.data())).map(Some)
    }
}

/// Tensor `name` of a safetensors file: its dtype as the file has it, its shape and its data.
fn tensor<'a, D>(file: &'a str, name: &str, (dtype, shape, data): (D, &[usize], &'a [u8])) -> Result<Tensor<'a>, LoadError>
where
    D: TryInto<candle_core::DType> + std::fmt::Debug + Copy,
{
    let dtype = match dtype.try_into() {
        Ok(candle_core::DType::F32) => DType::F32,
        Ok(candle_core::DType::BF16) => DType::Bf16,
        Ok(candle_core::DType::F16) => DType::F16,
        _ => return Err(LoadError::Dtype { file: file.to_string(), tensor: name.to_string(), found: format!("{dtype:?}") }),
    };
    Ok(Tensor::plain(file, shape.to_vec(), dtype, data))
}

/// Reads a safetensors file in memory and every value in it: what fuzzers and tests of damaged files call.
///
/// # Errors
/// As for a file that is served.
pub fn exercise(bytes: &[u8]) -> Result<(), LoadError> {
    const NAME: &str = "model.safetensors";
    check_header(NAME, bytes, bytes.len() as u64)?;
    let file = SliceSafetensors::new(bytes).map_err(|e| damaged(NAME, &e))?;
    for (name, view) in file.tensors() {
        let tensor = tensor(NAME, &name, (view.dtype(), view.shape(), view.data()))?;
        std::hint::black_box(tensor.data().map(|data| data.to_f32()));
    }
    Ok(())
}

fn damaged(file: &str, error: &candle_core::Error) -> LoadError {
    // The first line is the reader's reason; what may follow is a backtrace.
    let detail = error.to_string().lines().next().unwrap_or_default().to_string();
    LoadError::Damaged { file: file.to_string(), detail }
}

fn map_file(path: &Path) -> Result<(String, Shard), LoadError> {
    let name = path.display().to_string();
    let read_error = |source| LoadError::Read { file: name.clone(), source };
    let file = std::fs::File::open(path).map_err(read_error)?;
    let length = file.metadata().map_err(read_error)?.len();
    check_header(&name, file, length)?;
    // SAFETY: the file is only read; that nobody truncates a checkpoint while it is being loaded is the operator's part, and the map is
    // dropped when loading ends.
    let shard = unsafe { MmapedSafetensors::new(path) }.map_err(|e| damaged(&name, &e))?;
    Ok((name, Shard::Mapped(shard)))
}

/// Longest header that is read, as in the format's own reader.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Finds the two commonest faults of a file before its reader does, which does not say what it found: cut short, and a dtype that is not
/// served.
fn check_header(name: &str, mut file: impl Read, length: u64) -> Result<(), LoadError> {
    let cut = |wanted: u64| {
        let detail = format!("it has {length} bytes where {wanted} are called for; is the download complete?");
        LoadError::Damaged { file: name.to_string(), detail }
    };
    let mut prefix = [0; 8];
    if file.read_exact(&mut prefix).is_err() {
        return Err(cut(8));
    }
    let header_bytes = u64::from_le_bytes(prefix);
    if header_bytes > MAX_HEADER_BYTES {
        return Ok(()); // not a length at all: the reader says so
    }
    let mut header = Vec::new();
    file.take(header_bytes).read_to_end(&mut header).map_err(|source| LoadError::Read { file: name.to_string(), source })?;
    if (header.len() as u64) < header_bytes {
        return Err(cut(8 + header_bytes));
    }
    let Ok(serde_json::Value::Object(tensors)) = serde_json::from_slice(&header) else { return Ok(()) };
    let tensors = tensors.iter().filter(|(key, _)| *key != "__metadata__");
    let mut end = 0;
    for (tensor, entry) in tensors {
        let dtype = entry["dtype"].as_str().unwrap_or_default();
        if !["F32", "F16", "BF16"].contains(&dtype) {
            return Err(LoadError::Dtype { file: name.to_string(), tensor: tensor.clone(), found: dtype.to_string() });
        }
        end = end.max(entry["data_offsets"][1].as_u64().unwrap_or(0));
    }
    let wanted = end.saturating_add(8 + header_bytes);
    if length < wanted { Err(cut(wanted)) } else { Ok(()) }
}

/// The shard files an index names, in order, each once.
fn shards_of(index: &Path, folder: &Path) -> Result<Vec<PathBuf>, LoadError> {
    let name = index.display().to_string();
    let json = JsonFile::parse(&name, &super::files::read(index)?.bytes)?;
    let map = json.get("weight_map").and_then(serde_json::Value::as_object);
    let map = map.ok_or_else(|| json.wrong("weight_map", "absent or not an object", "an object from tensor names to file names"))?;
    let mut files = std::collections::BTreeSet::new();
    for (tensor, file) in map {
        let key = format!("weight_map.{tensor}");
        let file = file.as_str().ok_or_else(|| json.wrong(&key, file.to_string(), "a file name"))?;
        if Path::new(file).components().count() != 1 || file == ".." {
            return Err(json.wrong(&key, format!("\"{file}\""), "a file name without folders"));
        }
        files.insert(file);
    }
    let missing = files.iter().find(|file| !folder.join(file).exists());
    match missing {
        Some(shard) => Err(LoadError::MissingShard { index: name, shard: (*shard).to_string() }),
        None if files.is_empty() => Err(json.wrong("weight_map", "empty", "at least one tensor")),
        None => Ok(files.into_iter().map(|file| folder.join(file)).collect()),
    }
}
