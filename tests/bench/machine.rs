//! A machine without us: the same qemu, kernel and arguments, and an init that only says that it is there. And what our init
//! says about a boot.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::Instant,
};

use agent_tests::{Files, copy_program};
use anyhow::{Context, ensure};

use super::{
    ours::Ours,
    tools::{Fifo, Guard, Workshop, find, millis, quiet, wait_until},
};

/// What begins the line in which init tells how long a boot took.
const UP: &str = "agent-init: the machine is up: ";

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

/// A folder with a qemu in it that counts instructions instead of time: each is a nanosecond, however busy the host is. What the
/// machine waits for while it does nothing takes the time that it takes.
pub(crate) fn counting_qemu(workshop: &Workshop) -> anyhow::Result<PathBuf> {
    let name = format!("qemu-system-{}", std::env::consts::ARCH);
    let real = find(&name)?;
    let folder = workshop.path("counting");
    fs::create_dir_all(&folder)?;
    let script = format!(
        "#!/bin/sh\nfor word; do\n  case $word in\n    tcg,*) set -- \"$@\" tcg,thread=single -icount shift=0 ;;\n    \
         *) set -- \"$@\" \"$word\" ;;\n  esac\n  shift\ndone\nexec {} \"$@\"\n",
        real.display()
    );
    let draft = workshop.path("counting-draft");
    fs::write(&draft, script)?;
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o755))?;
    copy_program(&draft, &folder.join(name))?;
    Ok(folder)
}

/// What the parts of a boot took in the machine's own time, in milliseconds.
#[derive(Debug, PartialEq)]
pub(crate) struct Boot {
    pub(crate) kernel: f64,
    pub(crate) init: f64,
    pub(crate) drivers: f64,
    pub(crate) files: f64,
}

impl Boot {
    /// What init has told on the console.
    pub(crate) fn of(sandbox: &Path) -> anyhow::Result<Self> {
        let console = sandbox.join("logs/console.log");
        let mut boot = None;
        // It is told a moment after `start` was.
        wait_until("the console's word on the boot", || {
            boot = fs::read(&console).ok().and_then(|text| Self::parse(&String::from_utf8_lossy(&text)));
            boot.is_some()
        })?;
        boot.context("a boot")
    }

    fn parse(console: &str) -> Option<Self> {
        // Without its end the line is still being written.
        let (line, _) = console.split_once(UP)?.1.split_once('\n')?;
        let numbers = line.split([' ', ',']).filter_map(|word| word.parse().ok());
        let [kernel, init, drivers, files] = <[f64; 4]>::try_from(numbers.collect::<Vec<_>>()).ok()?;
        Some(Self { kernel, init, drivers, files })
    }
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
    fn a_boot_is_read_once_its_line_is_whole() {
        let line = "x\nagent-init: the machine is up: kernel 2900.5 ms, init 61.0 ms, of these drivers 40.2, files 9.9\n";
        let boot = Boot { kernel: 2900.5, init: 61.0, drivers: 40.2, files: 9.9 };
        assert_eq!(Boot::parse(line), Some(boot));
        assert_eq!(Boot::parse(line.trim_end()), None);
        assert_eq!(Boot::parse(""), None);
    }

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
