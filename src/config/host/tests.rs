use super::*;
use proptest::prelude::*;

const GIB: u64 = 1 << 30;
const MEMINFO: &str =
    "MemTotal:       16777216 kB\nMemFree:         1048576 kB\nMemAvailable:    8388608 kB\nBuffers:            1580 kB\n";

/// A machine of files: (path, content).
fn machine(files: &[(&str, &str)]) -> HostResources {
    let root = tempfile::tempdir().expect("a temporary directory");
    for (path, content) in files {
        let path = root.path().join(path);
        std::fs::create_dir_all(path.parent().expect("it has a parent")).expect("created");
        std::fs::write(path, content).expect("written");
    }
    HostResources::read(root.path(), 7)
}

fn with(files: &[(&str, &str)]) -> HostResources {
    machine(&[files, &[("proc/meminfo", MEMINFO)]].concat())
}

#[test]
fn a_machine_without_limits() {
    let expected = HostResources { memory_limit_bytes: 16 * GIB, memory_available_bytes: 8 * GIB, cpus: 7 };
    assert_eq!(with(&[]), expected);
    let files = [("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/memory.stat", "anon 1\n"), ("sys/fs/cgroup/cpu.max", "max 100000\n")];
    assert_eq!(with(&files), expected);
}

#[test]
fn a_system_that_tells_nothing() {
    let expected = HostResources { memory_limit_bytes: UNKNOWN_MEMORY_BYTES, memory_available_bytes: UNKNOWN_MEMORY_BYTES, cpus: 7 };
    assert_eq!(machine(&[]), expected);
}

#[test]
fn a_container_of_version_2_whose_cache_can_be_dropped() {
    let found = with(&[
        ("proc/self/cgroup", "0::/\n"),
        ("sys/fs/cgroup/memory.max", "4294967296\n"),
        ("sys/fs/cgroup/memory.current", "3221225472\n"),
        ("sys/fs/cgroup/memory.stat", "anon 1073741824\nfile 2147483648\ninactive_file 2147483648\nactive_file 0\n"),
        ("sys/fs/cgroup/cpu.max", "250000 100000\n"),
    ]);
    assert_eq!(found, HostResources { memory_limit_bytes: 4 * GIB, memory_available_bytes: 3 * GIB, cpus: 2 });
}

#[test]
fn the_smallest_limit_of_nested_groups_holds() {
    let found = with(&[
        ("proc/self/cgroup", "0::/kubepods/pod1/server\n"),
        ("sys/fs/cgroup/kubepods/memory.max", "max\n"),
        ("sys/fs/cgroup/kubepods/pod1/memory.max", "2147483648\n"),
        ("sys/fs/cgroup/kubepods/pod1/memory.current", "1073741824\n"),
        ("sys/fs/cgroup/kubepods/pod1/cpu.max", "50000 100000\n"),
        ("sys/fs/cgroup/kubepods/pod1/server/memory.max", "3221225472\n"),
        ("sys/fs/cgroup/kubepods/pod1/server/cpu.max", "300000 100000\n"),
    ]);
    assert_eq!(found, HostResources { memory_limit_bytes: 2 * GIB, memory_available_bytes: GIB, cpus: 1 });
}

#[test]
fn version_1_with_a_path_from_outside_the_container() {
    let files = [
        ("proc/self/cgroup", "9:memory:/docker/0123\n4:cpu,cpuacct:/docker/0123\n1:name=systemd:/docker/0123\n0::/\n"),
        ("sys/fs/cgroup/memory/memory.limit_in_bytes", "1073741824\n"),
        ("sys/fs/cgroup/memory/memory.usage_in_bytes", "536870912\n"),
        ("sys/fs/cgroup/memory/memory.stat", "cache 1\ninactive_file 1\ntotal_inactive_file 268435456\n"),
        ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "300000\n"),
        ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
    ];
    assert_eq!(with(&files), HostResources { memory_limit_bytes: GIB, memory_available_bytes: GIB * 3 / 4, cpus: 3 });
}

#[test]
fn version_1_without_limits_and_version_2_beside_it() {
    let found = with(&[
        ("proc/self/cgroup", "4:memory:/a\n1:cpu:/\n0::/a\n"),
        ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "9223372036854771712\n"),
        ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n"),
        ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
        ("sys/fs/cgroup/unified/a/cpu.max", "100000 100000\n"),
    ]);
    assert_eq!(found, HostResources { memory_limit_bytes: 16 * GIB, memory_available_bytes: 8 * GIB, cpus: 1 });
}

#[test]
fn threads_of_one_core_count_once_and_forbidden_processors_not_at_all() {
    let siblings = [
        ("sys/devices/system/cpu/cpu0/topology/thread_siblings_list", "0,4\n"),
        ("sys/devices/system/cpu/cpu1/topology/thread_siblings_list", "1,5\n"),
        ("sys/devices/system/cpu/cpu4/topology/thread_siblings_list", "0,4\n"),
        ("sys/devices/system/cpu/cpu5/topology/thread_siblings_list", "1,5\n"),
    ];
    let cpus = |allowed: &str| {
        let status = format!("Name:\tserver\nCpus_allowed:\t33\nCpus_allowed_list:\t{allowed}\n");
        with(&[siblings.as_slice(), &[("proc/self/status", status.as_str())]].concat()).cpus
    };
    assert_eq!([cpus("0-1,4-5"), cpus("0,4"), cpus("4-5"), cpus("0-2")], [2, 1, 2, 3]);
}

#[test]
fn this_machine_is_plausible() {
    let here = HostResources::detect();
    assert!(here.cpus >= 1 && here.memory_limit_bytes > 1 << 20 && here.memory_available_bytes <= here.memory_limit_bytes, "{here:?}");
}

#[test]
fn lines_as_the_kernel_writes_them() {
    let line = Membership { controllers: "cpu,cpuacct", path: "/a:b" };
    assert_eq!(parse_memberships("4:cpu,cpuacct:/a:b\nnonsense\n"), [line]);
    assert_eq!((parse_limit("max\n"), parse_limit("12\n")), (None, Some(12)));
    assert_eq!(parse_cpu_list("0-2,5\n"), [0, 1, 2, 5]);
    assert_eq!(["max 100000", "150000 100000", "5 0", "", "x y"].map(parse_cpu_max), [None, Some(1), None, None, None]);
}

proptest! {
    #[test]
    fn no_content_breaks_the_parsers(text in "\\PC{0,40}|[0-9,: \n-]{0,40}") {
        let _ = (parse_memberships(&text), parse_meminfo(&text), parse_limit(&text), parse_cpu_max(&text), parse_cpu_list(&text));
    }
}
