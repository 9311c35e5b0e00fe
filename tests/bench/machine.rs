//! A machine without us: the same qemu, kernel and arguments, and an init that only says that it is there.

use std::{fs, path::Path, process::Stdio, time::Instant};

use agent_tests::Files;
use anyhow::{Context, ensure};

use super::{
    ours::Ours,
    tools::{Fifo, Guard, Workshop, millis, quiet},
};

/// The machine that `start -n` shows, without what serves its files, its connections and its network, and without modules.
pub(crate) struct Bare {
    qemu: Vec<String>,
    ready: Fifo,
}

impl Bare {
    pub(crate) fn new(ours: &Ours, workshop: &Workshop) -> anyhow::Result<Self> {
        let folder = workshop.path("bare-machine");
        fs::create_dir_all(&folder)?;
        let initial = folder.join("initial");
        let mut files = Files::default();
        files.0.insert("init".to_owned(), (0o755, fs::read(workshop.floor())?));
        fs::write(&initial, files.archive())?;
        // One left by an earlier row.
        let _ = fs::remove_file(folder.join("ready"));
        let ready = Fifo::new(&folder)?;

        let mut shim = ours.shim(&["start", "-n", "--name", "bare", "--env", "host"]);
        shim.arg(ours.project()).args(["--", "cat"]).stdin(Stdio::null()).stderr(Stdio::inherit());
        let shown = String::from_utf8(shim.output()?.stdout)?;
        let lines = || shown.lines().rev();
        let kernel = lines().find_map(|line| line.strip_prefix("# the kernel is ")?.rsplit_once(", "));
        let (kernel, _) = kernel.with_context(|| format!("no kernel in what is shown: {shown}"))?;
        let qemu = lines().find(|line| line.contains("/qemu-system-")).context("no qemu in what is shown")?;
        let report = format!("file,id=report,path={}", folder.join("ready").display());
        let kept = without_us(&words(qemu)?, Path::new(kernel), &initial, &report);
        Ok(Self { qemu: kept, ready })
    }

    /// Boots it; what it takes until its init runs.
    pub(crate) fn boot(&self) -> anyhow::Result<f64> {
        self.stay().map(|(_, took)| took)
    }

    /// The same; it runs until it is dropped.
    pub(crate) fn stay(&self) -> anyhow::Result<(Guard, f64)> {
        let (program, args) = self.qemu.split_first().context("a program")?;
        let began = Instant::now();
        let machine = Guard(quiet(program).args(args).spawn()?);
        self.ready.wait()?;
        let took = millis(began.elapsed());
        Ok((machine, took))
    }
}

/// A line as a shell reads it.
fn words(line: &str) -> anyhow::Result<Vec<String>> {
    let output =
        quiet("sh").arg("-c").arg(format!("printf '%s\\0' {line}")).stdout(Stdio::piped()).output()?;
    let text = String::from_utf8(output.stdout)?;
    Ok(text.split_terminator('\0').map(str::to_owned).collect())
}

/// The arguments but for those that lead to another of our processes.
fn without_us(words: &[String], kernel: &Path, initial: &Path, report: &str) -> Vec<String> {
    let mut kept = words[..1].to_vec();
    let mut rest = words[1..].iter().map(String::as_str).peekable();
    while let Some(option) = rest.next() {
        let value = rest.next_if(|word| !word.starts_with('-'));
        let value = match (option, value) {
            ("-kernel", _) => Some(kernel.display().to_string()),
            ("-initrd", _) => Some(initial.display().to_string()),
            ("-chardev", Some(line)) if line.contains("id=console") => Some("null,id=console".to_owned()),
            ("-chardev", Some(line)) if line.contains("id=report") => Some(report.to_owned()),
            ("-chardev" | "-netdev", _) => continue,
            ("-device", Some(device)) if device.contains("chardev=") || device.contains("netdev=") => {
                continue;
            }
            (_, value) => value.map(str::to_owned),
        };
        kept.push(option.to_owned());
        kept.extend(value);
    }
    kept
}

/// What a process of the machine says of init, in kB. Nobody else has its program in memory there, so that all that is in memory is
/// its own.
pub(crate) fn resident_kb(status: &str) -> anyhow::Result<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let value = line.split_whitespace().next().context("a number")?;
    let value = value.parse()?;
    ensure!(value > 0.0, "init is {value} kB");
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leads_to_our_processes_is_left_out() {
        let line = "qemu -nodefaults -smp 2 -kernel /proc/self/fd/6 -initrd /proc/self/fd/7 -append 'a b' \
                    -chardev socket,id=console,fd=3 -serial chardev:console -chardev socket,id=report,fd=4 \
                    -device virtio-rng-pci -chardev socket,id=vsock,fd=10 -device vhost-user-vsock-pci,chardev=vsock \
                    -netdev socket,id=card,fd=5 -device virtio-net-pci,netdev=card,romfile=";
        let words = words(line).unwrap();
        let kept = without_us(&words, Path::new("/k"), Path::new("/i"), "file,id=report,path=/r");
        let expected = "qemu -nodefaults -smp 2 -kernel /k -initrd /i -append|a b|-chardev null,id=console -serial \
                        chardev:console -chardev file,id=report,path=/r -device virtio-rng-pci";
        assert_eq!(kept.join(" "), expected.replace('|', " "));
    }
}
