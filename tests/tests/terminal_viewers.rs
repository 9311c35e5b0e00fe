//! Many viewers of one agent: all see the same, one types, a slow one lags alone.

use agent_tests::{Home, Pane, Tmux, Who, until};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

struct Stage {
    home: Home,
}

impl Stage {
    fn start(script: &str) -> anyhow::Result<Self> {
        let home = Home::new(Who::Myself)?;
        let project = home.project("project")?;
        let project = project.to_string_lossy().into_owned();
        let stage = Self { home };
        stage
            .home
            .run(["start", "--name", "box", "--env", "host", &project, "--", "sh", "-c", script])?
            .success()?;
        Ok(stage)
    }

    fn attach<'a>(&self, tmux: &'a Tmux, size: (u16, u16)) -> anyhow::Result<Pane<'a>> {
        let pane = tmux.pane(&self.home, size.0, size.1)?;
        pane.line("agent-shim attach box")?;
        Ok(pane)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Err(error) = self.home.run(["destroy", "--force", "box"]) {
            eprintln!("destroying: {error:#}");
        }
    }
}

fn send(pane: &Pane<'_>, signal: Signal) -> anyhow::Result<()> {
    Ok(kill(Pid::from_raw(pane.client()?), signal)?)
}

const ECHOING: &str = "stty -echo; echo ready; while read line; do echo got $line; done";

#[test]
fn two_see_the_same_and_one_types() -> anyhow::Result<()> {
    let Some(tmux) = Tmux::start()? else { return Ok(()) };
    let stage = Stage::start(ECHOING)?;
    let first = stage.attach(&tmux, (80, 24))?;
    first.see("ready")?;
    let second = stage.attach(&tmux, (80, 24))?;
    second.see("ready")?;
    second.line("unheard")?;
    first.line("one")?;
    first.see("got one")?;
    second.equals(&first)?;
    second.keys("\x1dt")?;
    second.keys("\x1d?")?;
    second.see("you type")?;
    second.line("two")?;
    second.see("got two")?;
    first.line("unheard")?;
    second.keys("\x1dh")?;
    first.wait("the lease", |_| {
        let typed = first.keys("\x1d?").is_ok() && first.see("type").is_ok();
        typed && first.text().is_ok_and(|text| text.contains("you type"))
    })?;
    first.line("three")?;
    first.see("got three")?;
    second.equals(&first)?;
    // The holder goes, the other one gave it up, a third one gets it by asking.
    first.keys("\x1dd")?;
    until("the first to leave", || Ok(first.children()?.is_empty().then_some(())))?;
    let third = stage.attach(&tmux, (80, 24))?;
    third.see("got three")?;
    third.line("four")?;
    third.see("got four")?;
    second.equals(&third)?;
    assert!(!third.text()?.contains("unheard"));
    Ok(())
}

#[test]
fn a_stopped_viewer_lags_alone_and_is_repainted() -> anyhow::Result<()> {
    let Some(tmux) = Tmux::start()? else { return Ok(()) };
    let script = "stty -echo; echo ready; read line; yes 0123456789abcdef | head -c 20000000; echo; echo flooded; \
                  read line; echo on";
    let stage = Stage::start(script)?;
    let stopped = stage.attach(&tmux, (80, 24))?;
    stopped.see("ready")?;
    let other = stage.attach(&tmux, (80, 24))?;
    other.see("ready")?;
    send(&stopped, Signal::SIGSTOP)?;
    other.keys("\x1dt")?;
    other.line("go")?;
    other.see("flooded")?;
    assert!(!stopped.text()?.contains("flooded"));
    // The shell has the terminal now, as raw as it was left; it puts the viewer in front again.
    stopped.keys("fg\n")?;
    stopped.see("flooded")?;
    stopped.equals(&other)?;
    Ok(())
}

#[test]
fn leaving_in_the_middle_of_a_flood_leaves_a_sane_picture() -> anyhow::Result<()> {
    let Some(tmux) = Tmux::start()? else { return Ok(()) };
    let script = "trap 'kill $child; wait; printf \"\\033[m\\033[2J\\033[Hover\"; sleep 1000' USR1; \
                  (while :; do printf '\\033[3%dm日本 %d\\033[44mx' 1 2 3 4 5 6; done) & child=$!; wait; wait";
    let stage = Stage::start(script)?;
    let mut pane = stage.attach(&tmux, (80, 24))?;
    for killed in [false, true, false] {
        pane.see("日本")?;
        if killed {
            send(&pane, Signal::SIGKILL)?;
        } else {
            pane.keys("\x1dd")?;
        }
        until("the viewer to leave", || Ok(pane.children()?.is_empty().then_some(())))?;
        pane = stage.attach(&tmux, (80, 24))?;
    }
    let second = stage.attach(&tmux, (80, 24))?;
    second.see("日本")?;
    stage.home.run(["exec", "box", "--", "sh", "-c", "kill -USR1 $(pgrep -o -x sh)"])?.success()?;
    pane.wait("the end of it", |text| text.starts_with("over") && text.trim() == "over")?;
    second.equals(&pane)?;
    Ok(())
}

#[test]
fn twenty_viewers_see_the_same() -> anyhow::Result<()> {
    let Some(tmux) = Tmux::start()? else { return Ok(()) };
    let stage = Stage::start(ECHOING)?;
    // The first one types, so it comes first.
    let mut panes = vec![stage.attach(&tmux, (80, 24))?];
    panes[0].see("ready")?;
    for _ in 1..20 {
        panes.push(stage.attach(&tmux, (80, 24))?);
    }
    for pane in &panes {
        pane.see("ready")?;
    }
    panes[0].line("all of you")?;
    for pane in &panes {
        pane.see("got all of you")?;
        pane.equals(&panes[0])?;
    }
    Ok(())
}

#[test]
fn a_viewer_with_a_larger_terminal_sees_the_same() -> anyhow::Result<()> {
    let Some(tmux) = Tmux::start()? else { return Ok(()) };
    let wide = "printf 'abcdefghij%.0s' 1 2 3 4 5 6 7 8 9; echo; ";
    let stage = Stage::start(&format!(
        "stty -echo; {wide} echo ready; read line; {wide} echo more; read line; echo over; read line"
    ))?;
    let first = stage.attach(&tmux, (60, 20))?;
    first.see("ready")?;
    let second = stage.attach(&tmux, (100, 30))?;
    second.see("ready")?;
    assert_eq!(second.text()?.trim_end(), first.text()?.trim_end());
    first.line("go")?;
    first.see("more")?;
    second.wait("the same as on the first", |text| {
        first.text().is_ok_and(|first| first.trim_end() == text.trim_end())
    })?;
    // A smaller one shows as much as it has room for, the cursor's row among it.
    let third = stage.attach(&tmux, (20, 3))?;
    third.wait("its part", |text| {
        let rows: Vec<_> = text.trim_end().lines().collect();
        rows == ["abcdefghijabcdefghij", "more"]
    })?;
    // Taking over, it is the others that get pictures.
    third.keys("\x1dt")?;
    second.wait("the smaller size", |text| text.trim_end().lines().count() <= 3)?;
    third.line("")?;
    second.wait("the same as on the third", |text| {
        third.text().is_ok_and(|third| third.contains("over") && third.trim_end() == text.trim_end())
    })?;
    Ok(())
}

#[test]
fn what_comes_from_inside_does_nothing_to_the_terminal_that_prints_it() -> anyhow::Result<()> {
    let Some(tmux) = Tmux::start()? else { return Ok(()) };
    let script = r"stty -echo; printf '\033]2;evil title\033\\\033[?1003h\033[?1049h\033[2J\033[31mloud\033[?2004h\033[5n\033P$q\033\\\007\302\233?25l\342\200\256rtl\033(0lqk\033[4h\r\n'; sleep 1000";
    let stage = Stage::start(script)?;
    let pane = tmux.pane(&stage.home, 100, 50)?;
    let before = pane.shown()?;
    until("the output", || Ok(stage.home.run(["logs", "box"])?.text().contains("loud").then_some(())))?;
    for command in
        ["logs box", "list", "status box", "events box", "attach nobody", "status 'no\x1b[?1003hbody'"]
    {
        pane.line(&format!("clear; agent-shim {command}; echo over"))?;
        pane.see("\nover\n")?;
        let shown = pane.shown()?;
        assert_eq!((&shown.modes, &shown.title), (&before.modes, &before.title), "{command}: {shown}");
    }
    // No answer to a question in the output is waiting for the shell.
    assert_eq!(pane.text()?.trim_end().lines().last(), Some("$"));
    Ok(())
}
