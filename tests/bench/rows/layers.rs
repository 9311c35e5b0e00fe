//! What a layer costs: its start beside its own bare tool, and what it keeps in memory.

use std::{
    fs,
    io::Write,
    os::unix::fs::chown,
    path::Path,
    process::{Child, Stdio},
    time::Instant,
};

use agent_tests::{Home, Who};
use anyhow::{Context, anyhow, ensure};
use serde_json::Value;

use super::{Setting, against};
use crate::{
    machine,
    ours::Ours,
    rounds::{Contender, in_turn, single},
    table::{Row, Series, Unit},
    tools::{Fifo, find, millis, processes, timed},
};

/// Samples of each contender in a round.
const BATCH: usize = 4;

const HELLO: [&str; 3] = ["/workspace/floor", "hello", "/workspace/ready"];

/// A person who is not root, for whom both make the very same bundle.
struct Person {
    home: Home,
}

impl Person {
    fn new(setting: &Setting<'_>) -> anyhow::Result<Self> {
        let mut home = Home::new(Who::Ordinary)?;
        home.variable("AGENT_SHIM_ISOLATION", "oci");
        fs::copy(setting.workshop.floor(), home.project("project")?.join("floor"))?;
        Ok(Self { home })
    }

    fn ready(&self) -> anyhow::Result<Fifo> {
        let project = self.home.path().join("project");
        let ready = Fifo::new(&project)?;
        chown(project.join("ready"), Some(self.home.uid()), Some(self.home.uid()))?;
        Ok(ready)
    }

    fn tell(&self, words: &[&str]) -> anyhow::Result<f64> {
        let mut command = self.home.shim(words);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(millis(timed(&mut command)?))
    }
}

/// A shell in the launcher's place, which has crun run the bundle that `start -n` shows whenever it is told to.
struct Bare {
    shell: Child,
}

impl Bare {
    fn new(person: &Person) -> anyhow::Result<Self> {
        let home = &person.home;
        let shown = home.run(["start", "-n", "--name", "bare", "--env", "host", "project", "--", "cat"])?;
        // A namespace counts until the kernel has cleared it away, and one container follows the other here.
        let shown = shown.success()?.text().replace("echo 1 > /proc/sys/user/max_user_namespaces\n", "");
        // What the sandbox would have: the folders, and the program in init's place.
        for folder in ["agents", "agents/bare", "agents/bare/tmp", "agents/bare/home"] {
            home.project(&format!("data/agent-shim/{folder}"))?;
        }
        let start = shown.find("    \"args\": ").context("no arguments in what is shown")?;
        let end = start + shown[start..].find('\n').context("an end of the line")?;
        let args = format!("    \"args\": {},", serde_json::to_string(&HELLO)?);
        let (before, run) = shown.split_once("\nenv -i ").context("no command in what is shown")?;
        let run = run.strip_suffix("\nEND").context("no end in what is shown")?;
        ensure!(end < before.len());
        let looped = format!(
            "while read -r word <&9; do case $word in go) env -i {run};; \
             end) kill -9 $(cat pid); rm -rf state/*;; esac; done\nEND\n"
        );
        let script = format!("{}{args}{}\n{looped}", &before[..start], &before[end..]);
        let file = home.file("bare.sh", script.as_bytes())?;
        // Standard input is the script's own; it is told over another descriptor.
        let line = format!("exec 9<&0 3</dev/null 4</dev/null; exec bash {}", file.display());
        let mut command = home.command("bash", ["-c", &line]);
        let shell = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        Ok(Self { shell })
    }

    fn say(&self, word: &str) -> anyhow::Result<()> {
        Ok(writeln!(self.shell.stdin.as_ref().context("its input")?, "{word}")?)
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        // It ends with its input.
        let _ = self.shell.wait();
    }
}

/// From `start`, typed, to its return, beside `crun run` of the same bundle.
pub(super) fn start_oci(setting: &Setting<'_>) -> anyhow::Result<Vec<Row>> {
    find("crun")?;
    let person = Person::new(setting)?;
    let ready = person.ready()?;
    let begin = |name: &str| -> anyhow::Result<f64> {
        let words = ["start", "--name", name, "--env", "host", "project", "--"];
        let took = person.tell(&[&words[..], &HELLO].concat())?;
        ready.wait()?;
        Ok(took)
    };
    begin("again")?;
    person.tell(&["stop", "--force", "again"])?;
    let bare = Bare::new(&person)?;
    let contenders = vec![
        Contender::repeated("agent-shim start", BATCH, || {
            let took = begin("new")?;
            person.tell(&["destroy", "--force", "new"])?;
            Ok(took)
        }),
        Contender::repeated("agent-shim start, again", BATCH, || {
            let took = person.tell(&["start", "again"])?;
            ready.wait()?;
            person.tell(&["stop", "--force", "again"])?;
            Ok(took)
        }),
        Contender::repeated("crun run, same bundle", BATCH, || {
            let began = Instant::now();
            bare.say("go")?;
            ready.wait()?;
            let took = began.elapsed();
            bare.say("end")?;
            Ok(millis(took))
        }),
    ];
    let series = in_turn(setting.rounds(6), contenders)?;
    drop(bare);
    Ok(vec![Row {
        name: "start-oci",
        what: "start a container: command typed to agent executed".to_owned(),
        unit: Unit::Milliseconds,
        series,
        targets: vec![against("agent-shim start, again", "crun run, same bundle", 2.0)],
    }])
}

/// What all processes of a sandbox keep in memory while nothing happens: monitor, the layer's own, init. A machine's are those of
/// all its parts, its memory included; the agent is in it.
pub(super) fn rest(setting: &Setting<'_>) -> anyhow::Result<Vec<Row>> {
    const AGENT: [&str; 2] = ["sleep", "100000"];
    let ours = Ours::new(setting.workshop)?;
    let mut series: Vec<Series> = Vec::new();
    for layer in ["bwrap", "oci"] {
        let size = ours.start(layer, &["--isolation", layer], &AGENT).and_then(|_| {
            let pids = carried_by(&ours.folder(layer), ["monitor", "supervisor", "init"])?;
            pids.into_iter().map(pss_kb).sum()
        });
        series.push(single(layer, size)?);
    }
    let mut inside = Err(anyhow!("there is no machine"));
    let machines = Ours::with_machines(setting.workshop, None);
    let parts = machines.as_ref().map_err(|error| anyhow!("{error:#}")).and_then(|machines| {
        machines.start("microvm", &[], &AGENT)?;
        inside = init_inside(machines, "microvm");
        parts_of_machine(&machines.folder("microvm"))
    });
    match parts {
        Ok(parts) => {
            series.push(single("microvm", Ok(parts.iter().map(|(_, size)| size).sum()))?);
            for (name, size) in parts {
                series.push(single(&format!("  {name}"), Ok(size))?);
            }
        }
        Err(error) => series.push(single("microvm", Err(error))?),
    }
    series.push(single("init in the machine", inside)?);
    let bare = machines.as_ref().map_err(|error| anyhow!("{error:#}")).and_then(|machines| {
        let (machine, _) = machine::Bare::new(machines, setting.workshop)?.stay()?;
        pss_kb(machine.pid())
    });
    series.push(single("qemu, an init that does nothing", bare)?);
    Ok(vec![Row {
        name: "rest-layers",
        what: "PSS of all that carries a sandbox at rest, by layer".to_owned(),
        unit: Unit::Kilobytes,
        series,
        targets: Vec::new(),
    }])
}

fn pss_kb(pid: i32) -> anyhow::Result<f64> {
    processes::pss_kb(pid).map(f64::from)
}

/// What init says of itself in there, where the host sees the machine alone.
fn init_inside(machines: &Ours, name: &str) -> anyhow::Result<f64> {
    let output = machines.exec(name, &["cat", "/proc/1/status"]).stdout(Stdio::piped()).output()?;
    machine::resident_kb(&String::from_utf8_lossy(&output.stdout))
}

fn parts_of_machine(folder: &Path) -> anyhow::Result<Vec<(String, f64)>> {
    let pids = carried_by(folder, ["monitor", "supervisor"])?;
    let below = pids.iter().skip(1).flat_map(|launcher| processes::tree(*launcher)).skip(1);
    let parts = below.map(|pid| (processes::name(pid), pid)).collect::<Vec<_>>();
    let ours = ["monitor", "launcher"].map(str::to_owned).into_iter().zip(pids);
    ours.chain(parts).map(|(name, pid)| Ok((name, pss_kb(pid)?))).collect()
}

fn carried_by<const N: usize>(folder: &Path, who: [&str; N]) -> anyhow::Result<Vec<i32>> {
    let run: Value = serde_json::from_slice(&fs::read(folder.join("run.json"))?)?;
    let pid = |name: &str| {
        let pid = run[name]["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
        pid.with_context(|| format!("no {name} in {run:#}"))
    };
    who.map(pid).into_iter().collect()
}
