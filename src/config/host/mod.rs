//! Memory and processors this process may use: the limits of its container before those of the machine.
//!
//! `cli` reads them once at start; the loader sizes the KV cache and the thread pool by them. Linux tells them in files (cgroup v2, cgroup
//! v1, `/proc`, `/sys`); elsewhere the processors come from the standard library and the memory is [`UNKNOWN_MEMORY_BYTES`].
//!
//! **Architecture invariant:** reading and parsing are apart. The parsers take text; the reader takes the root directory, so that tests
//! build a machine out of files.
//!
//! Not here: how much of the memory the KV cache gets.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What this process may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostResources {
    /// Bytes it may have in all: the smallest limit of its control groups, at most the machine's memory.
    pub memory_limit_bytes: u64,
    /// Bytes it may still take now without swapping or being killed; file pages that can be dropped count as free.
    pub memory_available_bytes: u64,
    /// Physical cores it may run on, at most the whole processors of its CPU quota; at least 1.
    pub cpus: usize,
}

/// Memory assumed where the system does not tell: small enough for any machine that can serve a model at all.
pub const UNKNOWN_MEMORY_BYTES: u64 = 4 << 30;

impl HostResources {
    /// Reads the limits of this process.
    pub fn detect() -> Self {
        let fallback = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self::read(Path::new("/"), fallback)
    }

    /// Reads the limits from the files below `root`; `fallback_cpus` where they say nothing of processors.
    fn read(root: &Path, fallback_cpus: usize) -> Self {
        let groups = ControlGroups::read(root);
        let machine = text(&root.join("proc/meminfo")).and_then(|text| parse_meminfo(&text));
        let machine = machine.unwrap_or(Memory { total: UNKNOWN_MEMORY_BYTES, available: UNKNOWN_MEMORY_BYTES });
        let memory = groups.memory(machine);
        let cores = physical_cores(root).unwrap_or(fallback_cpus);
        let quota = groups.cpu_quota().unwrap_or(usize::MAX);
        Self { memory_limit_bytes: memory.total, memory_available_bytes: memory.available, cpus: cores.min(quota).max(1) }
    }
}

/// Bytes in all and bytes free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Memory {
    total: u64,
    available: u64,
}

/// The directories of the control groups this process is in, innermost first: every one of them may set a limit.
#[derive(Debug, Default)]
struct ControlGroups {
    v2: Vec<PathBuf>,
    v1_memory: Vec<PathBuf>,
    v1_cpu: Vec<PathBuf>,
}

impl ControlGroups {
    fn read(root: &Path) -> Self {
        let mount = root.join("sys/fs/cgroup");
        let mut groups = Self::default();
        for membership in parse_memberships(&text(&root.join("proc/self/cgroup")).unwrap_or_default()) {
            let controllers: Vec<&str> = membership.controllers.split(',').collect();
            if membership.controllers.is_empty() {
                // Where version 1 is mounted too, version 2 lies in `unified`.
                let hybrid = mount.join("unified");
                groups.v2 = chain(if hybrid.is_dir() { &hybrid } else { &mount }, membership.path);
            } else if controllers.contains(&"memory") {
                groups.v1_memory = chain(&mount.join("memory"), membership.path);
            } else if controllers.contains(&"cpu") {
                let joint = mount.join(membership.controllers);
                let mount = if joint.is_dir() { joint } else { mount.join("cpu") };
                groups.v1_cpu = chain(&mount, membership.path);
            }
        }
        groups
    }

    /// The memory of `machine`, cut to the limits of every group.
    fn memory(&self, machine: Memory) -> Memory {
        let v2 = self.v2.iter().filter_map(|group| group_memory(group, ["memory.max", "memory.current", "inactive_file"]));
        let v1_files = ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"];
        let v1 = self.v1_memory.iter().filter_map(|group| group_memory(group, v1_files));
        // Version 1 writes "no limit" as a number larger than any machine; the minimum takes care of it.
        v2.chain(v1).fold(machine, |a, b| Memory { total: a.total.min(b.total), available: a.available.min(b.available) })
    }

    /// Whole processors of the smallest quota, at least one.
    fn cpu_quota(&self) -> Option<usize> {
        let v2 = self.v2.iter().filter_map(|group| parse_cpu_max(&text(&group.join("cpu.max"))?));
        let v1 = self.v1_cpu.iter().filter_map(|group| {
            let (quota, period) = (text(&group.join("cpu.cfs_quota_us"))?, text(&group.join("cpu.cfs_period_us"))?);
            parse_cpu_max(&format!("{} {}", quota.trim(), period.trim()))
        });
        v2.chain(v1).min()
    }
}

/// The directory of a group and those above it, as far as they exist. Within a container the path often is the one outside of it;
/// then the mount itself is the group.
fn chain(mount: &Path, path: &str) -> Vec<PathBuf> {
    let relative = Path::new(path.trim_start_matches('/'));
    relative.ancestors().map(|ancestor| mount.join(ancestor)).filter(|directory| directory.is_dir()).collect()
}

/// Limit and rest of one group; the names are those of the limit, the usage and the droppable part in `memory.stat`.
fn group_memory(group: &Path, [limit, usage, droppable]: [&str; 3]) -> Option<Memory> {
    let total = parse_limit(&text(&group.join(limit))?)?;
    let used = text(&group.join(usage)).and_then(|text| parse_limit(&text)).unwrap_or(0);
    let dropped = text(&group.join("memory.stat")).and_then(|text| parse_field(&text, droppable)).unwrap_or(0);
    Some(Memory { total, available: total.saturating_sub(used.saturating_sub(dropped)) })
}

/// Physical cores among the processors this process may run on.
fn physical_cores(root: &Path) -> Option<usize> {
    let status = text(&root.join("proc/self/status"))?;
    let allowed = parse_cpu_list(status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?);
    let siblings = |cpu: &usize| {
        let file = root.join(format!("sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"));
        // Without a topology every processor is a core of its own.
        text(&file).map_or_else(|| vec![*cpu], |text| parse_cpu_list(&text))
    };
    let cores: BTreeSet<Vec<usize>> = allowed.iter().map(siblings).collect();
    (!cores.is_empty()).then_some(cores.len())
}

fn text(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// One line of `/proc/self/cgroup`; no controllers means version 2.
#[derive(Debug, PartialEq, Eq)]
struct Membership<'a> {
    controllers: &'a str,
    path: &'a str,
}

fn parse_memberships(text: &str) -> Vec<Membership<'_>> {
    let membership = |line| {
        let mut parts = str::splitn(line, 3, ':').skip(1);
        Some(Membership { controllers: parts.next()?, path: parts.next()? })
    };
    text.lines().filter_map(membership).collect()
}

/// `MemTotal` and `MemAvailable` of `/proc/meminfo`.
fn parse_meminfo(text: &str) -> Option<Memory> {
    let kibibytes = |name| parse_field(text, name).map(|value| value.saturating_mul(1024));
    let total = kibibytes("MemTotal:")?;
    Some(Memory { total, available: kibibytes("MemAvailable:").unwrap_or(total) })
}

/// The number after `name` at the beginning of a line.
fn parse_field(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().map(str::split_whitespace);
    lines.find_map(|mut words| if words.next() == Some(name) { words.next()?.parse().ok() } else { None })
}

/// A number of bytes; `max` is none.
fn parse_limit(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// Whole processors of `quota period`, at least one: threads beyond them would only be throttled. `max` or -1 is no quota.
fn parse_cpu_max(text: &str) -> Option<usize> {
    let mut words = text.split_whitespace().map(str::parse::<usize>);
    let (quota, period) = (words.next()?.ok()?, words.next()?.ok()?);
    Some(quota.checked_div(period)?.max(1))
}

/// Processors of a list as `0-3,8`.
fn parse_cpu_list(text: &str) -> Vec<usize> {
    /// More processors than Linux supports.
    const MOST: usize = 1 << 16;
    let range = |part: &str| -> Option<std::ops::RangeInclusive<usize>> {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse::<usize>().ok()?.min(MOST))
    };
    text.trim().split(',').filter_map(range).flatten().collect()
}

#[cfg(test)]
mod tests;
