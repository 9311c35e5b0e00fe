//! What a person sees of `run` and `attach` on a terminal of their own: prompts, notices, keys, sizes, the way back.

use std::fs;

use agent_tests::{Home, Pane, Tmux, Who, quoted, until};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const SIZE: (u16, u16) = (80, 24);

/// `agent-shim run ... -- sh -c SCRIPT`, as it is typed.
fn run(flags: &str, script: &str) -> String {
    format!("agent-shim run --name box --env host {flags} . -- sh -c {}", quoted(script))
}

fn start(home: &Home, flags: &[&str], script: &str) -> anyhow::Result<()> {
    let project = home.project("project")?;
    let project = project.to_string_lossy();
    let mut words = vec!["start", "--name", "box", "--env", "host"];
    words.extend(flags);
    words.extend([project.as_ref(), "--", "sh", "-c", script]);
    home.run(words)?.success().map(drop)
}

fn send(pid: i32, signal: Signal) -> anyhow::Result<()> {
    Ok(kill(Pid::from_raw(pid), signal)?)
}

/// Waits until the shell has no child, so that it has the terminal again.
fn at_prompt(pane: &Pane<'_>) -> anyhow::Result<()> {
    until("the shell's prompt", || Ok(pane.children()?.is_empty().then_some(())))?;
    pane.wait("the shell's prompt", |text| text.trim_end().ends_with('$'))
}

fn rows(pane: &Pane<'_>) -> anyhow::Result<Vec<String>> {
    Ok(pane.text()?.trim_end().lines().map(str::to_owned).collect())
}

struct Stage {
    tmux: Tmux,
    home: Home,
}

/// A tmux and a person; nothing where there is no tmux.
fn stage() -> anyhow::Result<Option<Stage>> {
    let Some(tmux) = Tmux::start()? else { return Ok(None) };
    Ok(Some(Stage { tmux, home: Home::new(Who::Myself)? }))
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Err(error) = self.home.run(["destroy", "--force", "box"]) {
            eprintln!("destroying: {error:#}");
        }
    }
}

#[test]
fn a_simple_program_looks_as_if_it_ran_without_us() -> anyhow::Result<()> {
    let Some(stage) = stage()? else { return Ok(()) };
    // Wide enough for a note on one row.
    let pane = stage.tmux.pane(&stage.home, 250, SIZE.1)?;
    pane.line("echo before")?;
    pane.see("\nbefore\n$")?;
    pane.line(&run("--rm", "echo hi; printf %s no-end; exit 7"))?;
    pane.see("no-end$")?;
    pane.line("echo code=$?")?;
    pane.see("code=7")?;
    let expected = [
        "$ echo before",
        "before",
        &format!("$ {}", run("--rm", "echo hi; printf %s no-end; exit 7")),
        "hi",
        "no-end$ echo code=$?",
        "code=7",
        "$",
    ];
    // What a machine lacks on this host is said before the program begins.
    let told = |row: &String| row.starts_with("note: the machine");
    let rows: Vec<String> = rows(&pane)?;
    let notes = rows.iter().filter(|row| told(row)).count();
    assert!(rows.iter().skip(3).take(notes).all(told), "{rows:#?}");
    assert_eq!(rows.iter().filter(|row| !told(row)).collect::<Vec<_>>(), expected.iter().collect::<Vec<_>>());
    // Nothing scrolled away.
    assert_eq!(pane.history()?.trim_end().lines().count(), expected.len() + notes);
    Ok(())
}

#[test]
fn a_full_screen_program_gives_the_persons_screen_back() -> anyhow::Result<()> {
    let Some(stage) = stage()? else { return Ok(()) };
    let (direct, pane) =
        (stage.tmux.pane(&stage.home, 100, SIZE.1)?, stage.tmux.pane(&stage.home, 100, SIZE.1)?);
    let script = r"printf 'below\n\033[?1049h\033[2J\033[3;9r\033[?1h\033=\033[?25l\033[?1003h\033[?1006h\033[4h\033[5;5Habove'; read line; printf '\033[?1049l'";
    for (pane, line) in [(&direct, format!("sh -c {}", quoted(script))), (&pane, run("--rm", script))] {
        pane.line("clear")?;
        pane.wait("a clear screen", |text| text.trim() == "$")?;
        pane.line(&line)?;
        pane.see("above")?;
    }
    pane.equals(&direct).unwrap_err();
    assert_eq!(pane.shown()?.modes, direct.shown()?.modes);
    pane.keys("\r")?;
    at_prompt(&pane)?;
    // The program left modes behind; we do not.
    let shown = pane.shown()?;
    let fresh = stage.tmux.pane(&stage.home, 100, SIZE.1)?;
    assert_eq!(shown.modes, fresh.shown()?.modes);
    let text = rows(&pane)?;
    assert!(text[0].starts_with("$ agent-shim run") && text.contains(&"below".to_owned()), "{text:?}");
    Ok(())
}

/// Everything about a terminal that a program can leave behind.
fn state(pane: &Pane<'_>, name: &str) -> anyhow::Result<(String, String)> {
    pane.line(&format!("clear; stty -a > ../stty; echo {name}"))?;
    pane.wait(name, |text| text.lines().next() == Some(name))?;
    let stty = pane_file("stty", pane)?;
    Ok((stty, pane.shown()?.modes))
}

fn pane_file(name: &str, pane: &Pane<'_>) -> anyhow::Result<String> {
    let cwd = fs::read_link(format!("/proc/{}/cwd", pane.shell()?))?;
    Ok(fs::read_to_string(cwd.join("..").join(name))?)
}

const WRECK: &str = r"printf '\033[3;9r\033[?1h\033=\033[?25l\033[?1003h\033[?1006h\033[?2004h\033[4h\033(0\033[?7l\033[?6h'; echo wrecked >&2; stty raw -echo; echo ready > mark; sleep 1000";

#[test]
fn the_terminal_is_put_back_however_the_viewer_ends() -> anyhow::Result<()> {
    let Some(stage) = stage()? else { return Ok(()) };
    let pane = stage.tmux.pane(&stage.home, SIZE.0, SIZE.1)?;
    let before = state(&pane, "before")?;
    let mark = stage.home.project("project")?.join("mark");
    let begin = || -> anyhow::Result<()> {
        let _ = fs::remove_file(&mark);
        pane.line(&run("", WRECK))?;
        until("the agent to be ready", || Ok(mark.exists().then_some(())))?;
        pane.wait("its modes", |_| pane.shown().is_ok_and(|shown| shown.modes.contains("mouse=0,0,1,0,1")))
    };
    let ends: [(&str, &dyn Fn() -> anyhow::Result<()>); 5] = [
        ("detach keys", &|| pane.keys("\x1dd")),
        ("SIGTERM", &|| send(pane.client()?, Signal::SIGTERM)),
        ("SIGHUP", &|| send(pane.client()?, Signal::SIGHUP)),
        ("destroy", &|| stage.home.run(["destroy", "--force", "box"])?.success().map(drop)),
        ("stop", &|| stage.home.run(["stop", "box"])?.success().map(drop)),
    ];
    for (name, end) in ends {
        begin()?;
        end()?;
        at_prompt(&pane)?;
        assert_eq!(state(&pane, "after")?, before, "{name}");
        stage.home.run(["destroy", "--force", "box"])?;
    }
    Ok(())
}

#[test]
fn stopped_and_continued_it_shows_the_picture_again() -> anyhow::Result<()> {
    let Some(stage) = stage()? else { return Ok(()) };
    let pane = stage.tmux.pane(&stage.home, SIZE.0, SIZE.1)?;
    let before = state(&pane, "before")?;
    pane.line(&run(
        "",
        r"stty -echo; printf 'a screen\033[?2004h\n'; while read line; do echo got $line; done",
    ))?;
    pane.see("a screen\n")?;
    pane.line("one")?;
    pane.see("got one")?;
    send(pane.client()?, Signal::SIGTSTP)?;
    pane.wait("the shell's prompt", |text| text.contains("Stopped") && text.trim_end().ends_with('$'))?;
    assert_eq!(state(&pane, "between")?, before);
    pane.line("fg")?;
    pane.wait("the picture", |text| text.starts_with("a screen\ngot one\n\n"))?;
    pane.line("two")?;
    pane.see("got two")?;
    pane.keys("\x04")?;
    at_prompt(&pane)?;
    assert_eq!(state(&pane, "after")?, before);
    Ok(())
}

#[test]
fn the_agent_gets_the_persons_terminal() -> anyhow::Result<()> {
    let Some(stage) = stage()? else { return Ok(()) };
    let pane = stage.tmux.pane(&stage.home, 91, 17)?;
    pane.line(&format!(
        "TERM=vt220 {}",
        run(
            "",
            r#"echo "$(stty size) $TERM"; trap 'echo now $(stty size)' WINCH; while :; do read line; done"#
        )
    ))?;
    pane.see("17 91 vt220")?;
    pane.resize(70, 30)?;
    pane.see("now 30 70")?;
    // Who only watches changes nothing, and sees all.
    let second = stage.tmux.pane(&stage.home, 100, 40)?;
    second.line("agent-shim attach box")?;
    second.see("now 30 70")?;
    second.resize(101, 41)?;
    // Taken over, its size counts.
    second.keys("\x1dt")?;
    second.see("now 41 101")?;
    assert!(!pane.history()?.contains("40 100"));
    second.keys("\x1dh")?;
    pane.wait("the size of who types again", |text| text.trim_end().ends_with("now 30 70"))?;
    for (columns, lines) in [(1, 1), (1, 40), (200, 60), (70, 30)] {
        pane.resize(columns, lines)?;
        until("the new size", || {
            let status = stage.home.run([
                "exec",
                "box",
                "--",
                "sh",
                "-c",
                "stty size < /proc/$(pgrep -o -x sh)/fd/0",
            ])?;
            Ok((status.text() == format!("{lines} {columns}")).then_some(()))
        })?;
    }
    Ok(())
}

#[test]
fn viewers_stay_over_a_crash_and_see_why_and_a_late_one_too() -> anyhow::Result<()> {
    let Some(stage) = stage()? else { return Ok(()) };
    let script = r"echo run $(cat count 2>/dev/null); echo x >> count; read line; printf '\033[?1049h\033[?1003hbroken'; exit 3";
    start(&stage.home, &["--restart", "on-failure"], script)?;
    let pane = stage.tmux.pane(&stage.home, SIZE.0, SIZE.1)?;
    pane.line("agent-shim attach box")?;
    pane.see("run")?;
    pane.line("crash")?;
    pane.see("[agent exited with code 3; restarts in")?;
    pane.see("run x")?;
    pane.see("[agent exited with code 3; restarts in")?;
    assert!(pane.shown()?.modes.contains("mouse=0,0,0,0,0"));
    for turn in ["run x x", "run x x x"] {
        if pane.text()?.contains("parked") {
            break;
        }
        pane.line("crash")?;
        pane.wait(turn, |text| text.contains(turn) || text.contains("parked"))?;
    }
    Ok(())
}

#[test]
fn who_attaches_to_a_parked_agent_reads_why() -> anyhow::Result<()> {
    let Some(stage) = stage()? else { return Ok(()) };
    start(&stage.home, &["--restart", "on-failure"], "echo hopeless; exit 3")?;
    until("the agent to be parked", || {
        let status = stage.home.run(["status", "box", "--json"])?.json()?;
        Ok((status["agent"]["state"] == "parked").then_some(()))
    })?;
    let pane = stage.tmux.pane(&stage.home, 120, SIZE.1)?;
    pane.line("agent-shim attach box")?;
    pane.see("[agent exited with code 3; parked: ")?;
    pane.keys("\x1dd")?;
    at_prompt(&pane)
}

#[test]
fn keys_that_mean_us_and_keys_that_do_not() -> anyhow::Result<()> {
    let Some(stage) = stage()? else { return Ok(()) };
    let pane = stage.tmux.pane(&stage.home, SIZE.0, SIZE.1)?;
    pane.line(&run("", "stty raw -echo; exec cat -v"))?;
    until("the agent", || Ok(stage.home.run(["status", "box"])?.status.success().then_some(())))?;
    pane.keys("ready.")?;
    pane.see("ready.")?;
    pane.keys("\x1d\x1d|\x1dx|")?;
    pane.see("^]|^]x|")?;
    pane.keys("\x1d?")?;
    pane.see("you type")?;
    pane.keys("y")?;
    pane.wait("the help to go", |text| !text.contains("you type") && text.contains("^]x|y"))?;
    pane.keys("\x1dd")?;
    pane.see("detached; `agent-shim attach box` comes back")?;
    at_prompt(&pane)?;
    pane.line("clear")?;
    pane.wait("a clear screen", |text| text.trim() == "$")?;
    pane.line("agent-shim attach --detach-keys ctrl-a,d box")?;
    pane.see("^]x|y")?;
    pane.keys("\x1dd|\x01x|")?;
    pane.see("^]d|^Ax|")?;
    pane.keys("\x01d")?;
    at_prompt(&pane)?;
    // The prompt is below the line that the agent was on.
    let text = rows(&pane)?;
    let last = text.iter().rposition(|row| row.contains("^Ax|")).unwrap_or_default();
    assert_eq!(text[last + 1..], ["$"], "{text:#?}");
    Ok(())
}

#[test]
fn typed_bytes_and_pastes_arrive_as_they_are() -> anyhow::Result<()> {
    let Some(stage) = stage()? else { return Ok(()) };
    let pane = stage.tmux.pane(&stage.home, SIZE.0, SIZE.1)?;
    let all: Vec<u8> = (0..=255).filter(|byte| *byte != 0x1d).collect();
    let paste = 1024 * 1024;
    let total = all.len() + 2 + paste + 12;
    pane.line(&run(
        "",
        &format!(r"stty raw -echo; printf 'ready\033[?2004h'; head -c {total} > got; echo done; sleep 1000"),
    ))?;
    pane.see("ready")?;
    pane.bytes(&all)?;
    pane.bytes(b"\x1d\x1d\x1d-")?;
    // Detached and attached again, the terminal still knows that pastes are bracketed.
    pane.keys("\x1dd")?;
    at_prompt(&pane)?;
    let pane = stage.tmux.pane(&stage.home, SIZE.0, SIZE.1)?;
    pane.line("agent-shim attach box")?;
    pane.see("ready")?;
    let text: Vec<u8> = (0..paste).map(|at| b"0123456789abcde\n"[at % 16]).collect();
    pane.paste(&text)?;
    pane.see("done")?;
    let got = fs::read(stage.home.project("project")?.join("got"))?;
    let expected = [&all[..], b"\x1d\x1d-", b"\x1b[200~", &text, b"\x1b[201~"].concat();
    let differs = got.iter().zip(&expected).position(|(got, expected)| got != expected);
    assert_eq!((differs, got.len()), (None, expected.len().min(total)));
    Ok(())
}

#[test]
fn without_a_terminal_bytes_go_through() -> anyhow::Result<()> {
    let home = Home::new(Who::Myself)?;
    let project = home.project("project")?;
    let project = project.to_string_lossy();
    let words = ["run", "--rm", "--name", "box", "--env", "host", project.as_ref(), "--", "cat"];
    let output = home.run_with_input(words, b"foo\n")?.success()?;
    // A terminal is between: it echoes, and ends lines as terminals do.
    assert_eq!(output.text(), "foo\r\nfoo\r");
    let words = [
        "run",
        "--rm",
        "--name",
        "box",
        "--env",
        "host",
        project.as_ref(),
        "--",
        "sh",
        "-c",
        "printf '\\033[31mred'; exit 5",
    ];
    let output = home.run(words)?.exits(5)?;
    assert_eq!(output.stdout, b"\x1b[31mred");
    Ok(())
}
