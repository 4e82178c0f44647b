//! A guest's console on the host: its tail for reports, its kernel lines for tests, and the search for
//! anything that the kernel complains of.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What the kernel prints when something is wrong with it. Looked for in kernel lines only.
const COMPLAINTS: &[&str] = &[
    "Oops",
    "BUG:",
    "kernel BUG at",
    "WARNING: ",
    "Kernel panic",
    "general protection fault",
    "unable to handle",
    "KASAN",
    "KCSAN",
    "UBSAN",
    "rcu_preempt detected stall",
    "detected stalls on CPUs",
    "self-detected stall",
    "soft lockup",
    "hard LOCKUP",
    "blocked for more than",
    "possible recursive locking",
    "possible circular locking",
    "possible irq lock inversion",
    "inconsistent lock state",
    "bad unlock balance",
    "held lock freed",
    "suspicious RCU usage",
    "sleeping function called",
    "scheduling while atomic",
    "refcount_t:",
    "list_add corruption",
    "list_del corruption",
    "new suspected memory leaks",
    "kmemleak: Memory pool empty",
    "kmemleak: Cannot allocate",
    "possible deadlock",
    "ODEBUG:",
    "unregister_netdevice: waiting",
    "stack-protector:",
    "rust_kernel: panicked",
];

/// The console of one guest.
#[derive(Debug)]
pub struct Console {
    path: PathBuf,
    scanned: u64,
}

impl Console {
    /// The console that QEMU writes to this file.
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            scanned: 0,
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A place in the console: everything printed so far lies before it.
    pub fn mark(&self) -> u64 {
        std::fs::metadata(&self.path).map_or(0, |file| file.len())
    }

    /// The whole lines since a mark.
    pub fn lines_since(&self, mark: u64) -> Vec<String> {
        let mut content = Vec::new();
        let read = File::open(&self.path).and_then(|mut file| {
            file.seek(SeekFrom::Start(mark))?;
            file.read_to_end(&mut content)
        });
        if read.is_err() {
            return Vec::new();
        }
        let whole = content
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |end| end + 1);
        String::from_utf8_lossy(&content[..whole])
            .lines()
            .map(|line| line.trim_end().to_owned())
            .collect()
    }

    /// Waits for a line with `text` after a mark.
    pub fn wait_line(&self, mark: u64, text: &str, timeout: Duration) -> Option<String> {
        let deadline = Instant::now() + timeout;
        loop {
            let over = Instant::now() >= deadline;
            if let Some(line) = self
                .lines_since(mark)
                .into_iter()
                .find(|line| line.contains(text))
            {
                return Some(line);
            }
            if over {
                return None;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The last lines.
    pub fn tail(&self, lines: usize) -> String {
        let all = self.lines_since(0);
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// The kernel's complaints since this was last asked.
    pub fn new_complaints(&mut self) -> Vec<String> {
        let from = self.scanned;
        let lines = self.lines_since(from);
        self.scanned = self.mark();
        lines
            .into_iter()
            .filter(|line| is_complaint(line))
            .collect()
    }
}

/// True for a kernel line that tells of a fault in the kernel.
pub fn is_complaint(line: &str) -> bool {
    let Some(text) = kernel_text(line) else {
        return false;
    };
    COMPLAINTS.iter().any(|complaint| text.contains(complaint))
}

/// The text of a line that the kernel's log printed: `[    1.234567] text`.
fn kernel_text(line: &str) -> Option<&str> {
    let (time, text) = line.strip_prefix('[')?.split_once(']')?;
    time.trim().parse::<f64>().ok()?;
    Some(text.trim_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_complaints_are_told_from_other_lines() {
        for line in [
            "[   12.345678] BUG: unable to handle page fault for address: ffff",
            "[   12.345678] WARNING: CPU: 0 PID: 1 at net/core/dev.c:1 x+0x1/0x2",
            "[   60.000000] kmemleak: 3 new suspected memory leaks (see /sys/kernel/debug/kmemleak)",
            "[    1.000000] rcu: INFO: rcu_preempt self-detected stall on CPU",
        ] {
            assert!(is_complaint(line), "{line}");
        }
        for line in [
            "WARNING: this is a program's line",
            "[    1.000000] dsm: policy 3 is in force",
            "[    0.100000] kmemleak: Kernel memory leak detector initialized (mem pool available: 64000)",
            "[not a time] BUG: x",
            "",
        ] {
            assert!(!is_complaint(line), "{line}");
        }
    }

    #[test]
    fn complaints_are_told_once() {
        let path = std::env::temp_dir().join(format!("dsi-console-{}", std::process::id()));
        std::fs::write(&path, "[    1.0] fine\n[    1.1] BUG: one\n").unwrap();
        let mut console = Console::new(&path);
        assert_eq!(console.new_complaints(), ["[    1.1] BUG: one"]);
        assert!(console.new_complaints().is_empty());
        assert_eq!(
            console.wait_line(0, "fine", Duration::ZERO).as_deref(),
            Some("[    1.0] fine")
        );
        assert_eq!(console.tail(1), "[    1.1] BUG: one");
        std::fs::remove_file(&path).unwrap();
    }
}
