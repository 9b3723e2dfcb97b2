//! Sources of the Metal kernels: the system compiles them when a device is opened, so a build needs no compiler of Apple's.

/// What each file may rely on. For the host's compiler the files include it themselves.
const COMMON: &str = include_str!("metal/common.metal.h");

macro_rules! files {
    ($($name:literal)*) => { [$(($name, include_str!(concat!("metal/", $name, ".metal")))),*] };
}

/// Name and text of each file.
const FILES: [(&str, &str); 10] = files!(
    "embed" "rms_norm" "qk_norm_rope_store" "paged_attention" "attention_merge" "activation" "gather" "matvec" "matmul" "choose"
);

/// Name of each file, and the text that the compiler gets: its errors name lines of that file.
pub(super) fn texts() -> impl Iterator<Item = (&'static str, String)> {
    FILES.iter().map(|(name, text)| (*name, format!("{COMMON}\n#line 1 \"{name}.metal\"\n{text}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    #[test]
    fn every_file_of_kernels_is_compiled() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ops/gpu/metal");
        let there = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let there: BTreeSet<String> = there.filter_map(|name| name.strip_suffix(".metal").map(str::to_owned)).collect();
        assert_eq!(there, FILES.iter().map(|(name, _)| (*name).to_owned()).collect());
    }

    /// A text in memory has no folder to include from.
    #[test]
    fn only_the_host_includes_files() {
        for (name, text) in texts() {
            let mut is_host = false;
            for line in text.lines().map(str::trim) {
                match line {
                    "#ifdef OPENELM_HOST" => is_host = true,
                    _ if line.starts_with("#else") || line.starts_with("#endif") => is_host = false,
                    _ => assert!(is_host || !line.starts_with("#include \""), "{name}.metal: {line}"),
                }
            }
        }
    }
}
