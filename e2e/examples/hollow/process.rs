//! What a process has used, as the kernel counts it.

/// The kernel's unit of processor time, the same on every Linux that this is built for.
const TICKS_PER_SECOND: f64 = 100.0;

/// Of one process.
pub(crate) struct Usage {
    pub(crate) cpu_seconds: f64,
    pub(crate) resident_mib: u64,
}

impl Usage {
    /// `None` when there is no such process.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in parentheses, may hold anything. After it comes the state, as field 3.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = |field: usize| fields.get(field - 3)?.parse::<f64>().ok();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kib: u64 = resident.trim().trim_end_matches(" kB").trim().parse().ok()?;
        let cpu_seconds = (ticks(14)? + ticks(15)?) / TICKS_PER_SECOND;
        Some(Self { cpu_seconds, resident_mib: kib / 1024 })
    }
}
