//! What machine this is, and what time.

use super::report::Machine;
use crate::config::host::HostResources;
use std::time::SystemTime;

/// This machine, computing on `threads` threads.
pub(super) fn machine(host: HostResources, threads: usize) -> Machine {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu_model(&text).unwrap_or("unknown CPU").to_owned();
    Machine { cpu, cores: host.cpus, threads, memory_bytes: host.memory_limit_bytes }
}

/// The model of the first processor of `/proc/cpuinfo`; some architectures have none.
fn cpu_model(text: &str) -> Option<&str> {
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    line.split_once(':').map(|(_, name)| name.trim()).filter(|name| !name.is_empty())
}

/// The moment as text and in seconds since 1970.
pub(super) fn date(now: SystemTime) -> (String, u64) {
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    (httpdate::fmt_http_date(now), seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_model_is_read_where_there_is_one() {
        assert_eq!(cpu_model("processor\t: 0\nmodel\t\t: 17\nmodel name\t: AMD EPYC 9B14\nmodel name\t: x\n"), Some("AMD EPYC 9B14"));
        assert_eq!((cpu_model("processor\t: 0\nBogoMIPS\t: 50\n"), cpu_model("model name\t:\n")), (None, None));
    }

    #[test]
    fn dates_are_written_as_in_http() {
        let moment = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert_eq!(date(moment), ("Sun, 06 Nov 1994 08:49:37 GMT".to_owned(), 784_111_777));
    }
}
