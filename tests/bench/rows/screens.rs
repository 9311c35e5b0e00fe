//! What a person at a terminal feels: floods, keys, the first picture.

use std::{
    path::PathBuf,
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::Context;

use super::{Setting, absolute, against};
use crate::{
    ours::Ours,
    rounds::{Contender, in_turn},
    stats::Quantile,
    table::{Against, Row, Target, Unit},
    terminal::Terminal,
    tools::{Container, Guard, Workshop, find, micros, millis, quiet, timed, wait_until},
};

/// How many numbers `seq` prints.
const LINES: usize = 2_000_000;

/// Keys in a round. Between two of them a person waits, so that everything has gone to sleep.
const KEYS: usize = 200;
const BETWEEN_KEYS: Duration = Duration::from_millis(1);

/// A terminal that comes to rest for this long has been painted.
const QUIET: Duration = Duration::from_millis(200);

/// A peer that keeps a program on a terminal until it is dropped.
enum Keeper {
    Dtach { program: PathBuf, socket: PathBuf, _server: Guard },
    Tmux { program: PathBuf, server: String },
}

impl Keeper {
    fn dtach(workshop: &Workshop, row: &str, agent: &[String]) -> anyhow::Result<Self> {
        let program = find("dtach")?;
        let socket = workshop.path(&format!("dtach-{row}"));
        let mut command = quiet(&program);
        // The program ends with its terminal, which ends with the server.
        command.arg("-N").arg(&socket).args(["-E", "-z", "-r", "winch"]).args(agent);
        let server = Guard(command.spawn()?);
        wait_until("dtach", || socket.exists())?;
        Ok(Self::Dtach { program, socket, _server: server })
    }

    fn tmux(row: &str, agent: &[String]) -> anyhow::Result<Self> {
        let program = find("tmux")?;
        let server = format!("agent-shim-bench-{}-{row}", std::process::id());
        let mut command = quiet(&program);
        command.args(["-L", &server, "-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24"]);
        command.args(agent).args([";", "set", "-g", "status", "off"]).env("TERM", "xterm");
        timed(&mut command)?;
        Ok(Self::Tmux { program, server })
    }

    fn attach(&self) -> Command {
        match self {
            Self::Dtach { program, socket, .. } => {
                let mut command = Command::new(program);
                command.arg("-a").arg(socket).args(["-E", "-z", "-r", "winch"]);
                command
            }
            Self::Tmux { program, server } => {
                let mut command = Command::new(program);
                command.args(["-L", server, "attach"]);
                command
            }
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if let Self::Tmux { program, server } = self {
            // It may have ended with its program.
            let _ = quiet(program).args(["-L", server, "kill-server"]).status();
        }
    }
}

/// The agent of a row: in the workshop for peers, in the project for us.
fn local(workshop: &Workshop, what: &str) -> Vec<String> {
    vec![workshop.floor().to_string_lossy().into_owned(), what.to_owned()]
}

/// `seq 1 2000000` on the agent's terminal, as seen by a viewer.
pub(super) fn flood(setting: &Setting<'_>) -> anyhow::Result<Vec<Row>> {
    // The words are apart, so that their echo is not taken for them.
    let script = format!("while read key; do seq 1 {LINES}; echo FIN''ISHED; done");
    let agent: Vec<String> = ["sh", "-c", &script].map(str::to_owned).into();
    let words: Vec<&str> = agent.iter().map(String::as_str).collect();
    let workshop = setting.workshop;
    let ours = Ours::new(workshop)?;
    ours.start("box", &[], &words)?;
    let dtach = Keeper::dtach(workshop, "flood", &agent);
    let tmux = Keeper::tmux("flood", &agent);
    let container = Container::start(workshop, "flood", ours.project(), &["sleep", "100000"]);
    let run = |command: Command| -> anyhow::Result<f64> {
        let mut terminal = Terminal::start(command)?;
        terminal.settle(QUIET)?;
        let began = Instant::now();
        terminal.type_in(b"\r")?;
        terminal.wait_for(b"FINISHED")?;
        Ok(millis(began.elapsed()))
    };
    let contenders = vec![
        Contender::repeated("agent-shim attach", 1, || run(ours.shim(&["attach", "box"]))),
        Contender::if_there("dtach", &dtach, |dtach| {
            Contender::repeated("dtach", 1, move || run(dtach.attach()))
        }),
        Contender::if_there("tmux", &tmux, |tmux| Contender::repeated("tmux", 1, move || run(tmux.attach()))),
        Contender::if_there("crun exec -t", &container, |container| {
            Contender::repeated("crun exec -t", 1, || run(container.exec(&["-t"], &words)))
        }),
        Contender::repeated("local terminal", 1, || {
            let mut command = Command::new(&agent[0]);
            command.args(&agent[1..]);
            run(command)
        }),
    ];
    Ok(vec![Row {
        name: "pty",
        what: format!("`seq 1 {LINES}` on the agent's terminal, seen to its end"),
        unit: Unit::Milliseconds,
        series: in_turn(setting.rounds(3), contenders)?,
        targets: vec![against("agent-shim attach", "dtach", 1.0)],
    }])
}

/// From a key to its echo.
pub(super) fn echo(setting: &Setting<'_>) -> anyhow::Result<Vec<Row>> {
    let workshop = setting.workshop;
    let agent = local(workshop, "echo");
    let ours = Ours::new(workshop)?;
    ours.start("box", &[], &["/workspace/floor", "echo"])?;
    let dtach = Keeper::dtach(workshop, "echo", &agent);
    let tmux = Keeper::tmux("echo", &agent);
    let open = |command: Command| -> anyhow::Result<Terminal> {
        let mut terminal = Terminal::start(command)?;
        terminal.settle(QUIET)?;
        Ok(terminal)
    };
    let mut mine = open(ours.shim(&["attach", "box"]))?;
    let mut bare = Command::new(&agent[0]);
    bare.args(&agent[1..]);
    let mut bare = open(bare)?;
    let dtach_view =
        dtach.as_ref().map_err(|error| anyhow::anyhow!("{error:#}")).and_then(|it| open(it.attach()));
    let tmux_view =
        tmux.as_ref().map_err(|error| anyhow::anyhow!("{error:#}")).and_then(|it| open(it.attach()));
    let mut contenders = vec![Contender::new("agent-shim attach", || keys(&mut mine))];
    let views = [("dtach", dtach_view), ("tmux", tmux_view)];
    for (who, view) in views {
        contenders.push(match view {
            Ok(mut view) => Contender::new(who, move || keys(&mut view)),
            Err(error) => Contender::absent(who, format!("{error:#}")),
        });
    }
    contenders.push(Contender::new("local terminal", || keys(&mut bare)));
    let at = |at| Target { ours: "agent-shim attach", against: Against::Peer("dtach"), at, limit: 1.0 };
    Ok(vec![Row {
        name: "echo",
        what: "a key typed to its echo seen".to_owned(),
        unit: Unit::Microseconds,
        series: in_turn(setting.rounds(8), contenders)?,
        targets: vec![at(Quantile::MEDIAN), at(Quantile::P99)],
    }])
}

fn keys(terminal: &mut Terminal) -> anyhow::Result<Vec<f64>> {
    // Characters that end no escape sequence, so that what is seen is the echo.
    let keys = [b"#", b"%", b"&", b"+"].into_iter().cycle();
    let mut times = Vec::with_capacity(KEYS);
    for (number, key) in keys.take(KEYS).enumerate() {
        sleep(BETWEEN_KEYS);
        let began = Instant::now();
        terminal.type_in(key)?;
        terminal.wait_for(key).with_context(|| format!("key {number}"))?;
        times.push(micros(began.elapsed()));
        if number % 60 == 59 {
            // Stays clear of the last column, where terminals differ.
            terminal.type_in(b"\r")?;
            terminal.settle(Duration::from_millis(5))?;
        }
    }
    Ok(times)
}

/// From `attach`, typed, to a full screen.
pub(super) fn paint(setting: &Setting<'_>) -> anyhow::Result<Vec<Row>> {
    let workshop = setting.workshop;
    let agent = local(workshop, "paint");
    let ours = Ours::new(workshop)?;
    ours.start("box", &[], &["/workspace/floor", "paint"])?;
    let dtach = Keeper::dtach(workshop, "paint", &agent);
    let tmux = Keeper::tmux("paint", &agent);
    let run = |command: Command| -> anyhow::Result<f64> {
        let began = Instant::now();
        let mut terminal = Terminal::start(command)?;
        terminal.wait_for(b"@@PAINTED@@")?;
        Ok(millis(began.elapsed()))
    };
    let contenders = vec![
        Contender::repeated("agent-shim attach", 5, || run(ours.shim(&["attach", "box"]))),
        Contender::if_there("tmux", &tmux, |tmux| Contender::repeated("tmux", 5, move || run(tmux.attach()))),
        Contender::if_there("dtach, program repaints", &dtach, |dtach| {
            Contender::repeated("dtach, program repaints", 5, move || run(dtach.attach()))
        }),
    ];
    Ok(vec![Row {
        name: "paint",
        what: "`attach` typed to first full screen".to_owned(),
        unit: Unit::Milliseconds,
        series: in_turn(setting.rounds(5), contenders)?,
        targets: vec![absolute("agent-shim attach", 20.0)],
    }])
}
