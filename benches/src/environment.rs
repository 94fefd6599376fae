//! What the figures were taken on: without it they say nothing.

use std::fs;
use std::path::Path;
use std::process::Command;

/// The machine, the software and the neighbours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    /// Model of the CPU and number of cores.
    pub cpu: String,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Kernel release.
    pub kernel: String,
    /// File system type and device of the data folder.
    pub file_system: String,
    /// Date and time, UTC.
    pub date: String,
    /// Commit of the source tree, `-dirty` if it was changed.
    pub commit: String,
    /// Compiler.
    pub compiler: String,
    /// Load averages when the run began: anything above 0.3 says that the machine was shared.
    pub load: String,
}

impl Environment {
    /// Looks at this machine and at the file system of `data_dir`; what cannot be found is `unknown`.
    pub fn detect(data_dir: &Path) -> Self {
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = value_after(&cpuinfo, "model name").unwrap_or("unknown CPU");
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let memory_kib =
            value_after(&meminfo, "MemTotal").and_then(|value| value.trim_end_matches("kB").trim().parse::<u64>().ok());
        Self {
            cpu: format!("{model}, {cores} cores"),
            memory_mib: memory_kib.unwrap_or(0) / 1024,
            kernel: trimmed(fs::read_to_string("/proc/sys/kernel/osrelease").ok()),
            file_system: output("stat", &["-f", "-c", "%T", &data_dir.to_string_lossy()]),
            date: output("date", &["-u", "+%Y-%m-%d %H:%M"]),
            commit: output("git", &["describe", "--always", "--dirty", "--abbrev=10"]),
            compiler: output("rustc", &["--version"]),
            load: trimmed(fs::read_to_string("/proc/loadavg").ok()),
        }
    }

    /// One line each, name and value.
    pub fn lines(&self) -> Vec<(&'static str, String)> {
        vec![
            ("cpu", self.cpu.clone()),
            ("memory_mib", self.memory_mib.to_string()),
            ("kernel", self.kernel.clone()),
            ("file_system", self.file_system.clone()),
            ("date", self.date.clone()),
            ("commit", self.commit.clone()),
            ("compiler", self.compiler.clone()),
            ("load", self.load.clone()),
        ]
    }
}

/// Bytes of memory that [`warm_memory`] touches at most.
const WARM_BYTES: u64 = 8 << 30;
const PAGE_BYTES: usize = 4 << 10;

/// Touches half of the memory that is free, 8 GiB at most, and gives it back; returns the bytes.
///
/// A virtual machine may get its memory from the host page by page, when it is first used: a page cache that grows
/// into new memory was seen to take 0.4 GB/s instead of 4. The figures are those of a machine that has run for a while.
pub fn warm_memory() -> u64 {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let free_kib =
        value_after(&meminfo, "MemFree").and_then(|value| value.trim_end_matches("kB").trim().parse::<u64>().ok());
    let bytes = (free_kib.unwrap_or(0) * 1024 / 2).min(WARM_BYTES);
    let mut memory: Vec<u8> = Vec::new();
    if memory.try_reserve_exact(usize::try_from(bytes).unwrap_or(0)).is_err() {
        return 0;
    }
    memory.resize(memory.capacity(), 1);
    std::hint::black_box(memory.iter().step_by(PAGE_BYTES).map(|byte| u64::from(*byte)).sum::<u64>());
    bytes
}

fn trimmed(text: Option<String>) -> String {
    text.map_or_else(|| "unknown".to_owned(), |text| text.trim().to_owned())
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().ok().filter(|output| output.status.success());
    trimmed(output.and_then(|output| String::from_utf8(output.stdout).ok()))
}

fn value_after<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim())
}
