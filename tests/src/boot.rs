//! What a boot takes, by what init says of it; and a machine that counts instructions, so that it always takes the same.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::Context;

use crate::{copy_program, machine::which, until};

/// What begins the line in which init tells how long a boot took.
const UP: &str = "agent-init: the machine is up: ";

/// A folder with a qemu in it that counts instructions instead of time: each is a nanosecond, however busy the host is. What the
/// machine waits for while it does nothing takes the time that it takes.
pub fn counting_qemu(place: &Path) -> anyhow::Result<PathBuf> {
    let name = format!("qemu-system-{}", std::env::consts::ARCH);
    let real = which(&name).with_context(|| format!("{name} is not installed"))?;
    let folder = place.join("counting");
    fs::create_dir_all(&folder)?;
    let script = format!(
        "#!/bin/sh\nfor word; do\n  case $word in\n    tcg,*) set -- \"$@\" tcg,thread=single -icount shift=0 ;;\n    \
         *) set -- \"$@\" \"$word\" ;;\n  esac\n  shift\ndone\nexec {} \"$@\"\n",
        real.display()
    );
    let draft = place.join("counting-draft");
    fs::write(&draft, script)?;
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o755))?;
    copy_program(&draft, &folder.join(name))?;
    Ok(folder)
}

/// What the parts of a boot took in the machine's own time, in milliseconds.
#[derive(Debug, PartialEq)]
pub struct Boot {
    /// The kernel, until init began.
    pub kernel: f64,
    /// Init, until it was ready.
    pub init: f64,
    /// Loading drivers, a part of that.
    pub drivers: f64,
    /// From there until all was mounted, with the network.
    pub files: f64,
}

impl Boot {
    /// What init has told on the console.
    pub fn of(sandbox: &Path) -> anyhow::Result<Self> {
        let console = sandbox.join("logs/console.log");
        until("the console's word on the boot", || {
            Ok(fs::read(&console).ok().and_then(|text| Self::parse(&String::from_utf8_lossy(&text))))
        })
    }

    fn parse(console: &str) -> Option<Self> {
        // Without its end the line is still being written.
        let (line, _) = console.split_once(UP)?.1.split_once('\n')?;
        let numbers = line.trim_end().split([' ', ',']).filter_map(|word| word.parse().ok());
        let [kernel, init, drivers, files] = <[f64; 4]>::try_from(numbers.collect::<Vec<_>>()).ok()?;
        Some(Self { kernel, init, drivers, files })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_is_read_once_its_line_is_whole() {
        let line = "x\nagent-init: the machine is up: kernel 2900.5 ms, init 61.0 ms, of these drivers 40.2, files 9.9\r\n";
        let boot = Boot { kernel: 2900.5, init: 61.0, drivers: 40.2, files: 9.9 };
        assert_eq!(Boot::parse(line), Some(boot));
        assert_eq!(Boot::parse(line.trim_end()), None);
        assert_eq!(Boot::parse(""), None);
    }
}
