//! A real terminal in front of a person, with tmux as the judge of what it shows.
//!
//! Each [`Tmux`] is a server of its own, killed on drop. A [`Pane`] is one terminal with the person's shell in it;
//! commands are typed, and tests wait for what the pane shows.

use std::{
    cell::Cell,
    fmt::{self, Write as _},
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use tempfile::TempDir;

use crate::{Home, agent_shim, cells::canonical, layer, until};

/// Everything tmux tells about a terminal's modes. Bracketed paste is not among it: see [`Pane::paste`].
const MODES: &str = "visible=#{cursor_flag} insert=#{insert_flag} keys=#{keypad_cursor_flag},#{keypad_flag} \
    origin=#{origin_flag} wrap=#{wrap_flag} mouse=#{mouse_standard_flag},#{mouse_button_flag},#{mouse_all_flag},\
    #{mouse_utf8_flag},#{mouse_sgr_flag} region=#{scroll_region_upper},#{scroll_region_lower} \
    alternate=#{alternate_on} tabs=#{pane_tabs}";

/// Separates the answers of one tmux call; no program shows it by accident.
const MARK: &str = "=-=-=-answer-=-=-=";

/// How long two terminals may differ. A table of cases reports all that do, so this is shorter than others.
const SAME: Duration = Duration::from_secs(10);

/// What the person's shell asks with.
const PROMPT: &str = "$ ";

/// A tmux server.
pub struct Tmux {
    folder: TempDir,
    panes: Cell<u32>,
}

/// One terminal, with a shell in it.
pub struct Pane<'a> {
    tmux: &'a Tmux,
    name: String,
}

/// What a terminal shows, and the state it is in.
#[derive(Clone, PartialEq, Eq)]
pub struct Shown {
    /// The rows with their styles, as `capture-pane -e` prints them.
    pub rows: Vec<String>,
    /// What lies under an alternate screen.
    pub under: Vec<String>,
    /// Column and row of the cursor, from zero.
    pub cursor: (u32, u32),
    /// All modes that tmux tells.
    pub modes: String,
    /// The window's title.
    pub title: String,
}

impl Tmux {
    /// A new server; `None`, with the reason on standard error, where there is no tmux.
    pub fn start() -> anyhow::Result<Option<Self>> {
        if Command::new("tmux").arg("-V").output().is_err() {
            crate::skip("tmux is not installed");
            return Ok(None);
        }
        let folder = tempfile::Builder::new().prefix("as-tmux-").tempdir_in("/tmp")?;
        let tmux = Self { folder, panes: Cell::new(0) };
        let settings = [
            "start-server ; set -g exit-empty off ; set -g status off ; set -g history-limit 5000",
            "set -g allow-rename off ; set -g automatic-rename off ; set -g set-titles off ; set -g escape-time 0",
            "set -g default-terminal tmux-256color ; set -g remain-on-exit on",
            "set -g remain-on-exit-format gone",
        ]
        .join(" ; ");
        tmux.tell(&settings.split(' ').collect::<Vec<_>>())?;
        Ok(Some(tmux))
    }

    /// Terminals keep no scrollback from now on. Otherwise tmux fills a terminal that grows from there, with what was
    /// shown before the program.
    pub fn without_history(&self) -> anyhow::Result<()> {
        self.tell(&["set", "-g", "history-limit", "0"]).map(drop)
    }

    /// A person's terminal of this size: a shell in the person's environment, in their folder `project`.
    pub fn pane(&self, home: &Home, columns: u16, rows: u16) -> anyhow::Result<Pane<'_>> {
        let project = home.project("project")?;
        let bin = agent_shim().parent().context("the shim's folder")?;
        let mut shell = home.command("sh", ["-i"]);
        shell.env("PATH", format!("{}:{}", bin.display(), home.search_path()));
        shell.env("PS1", PROMPT).env_remove("TERM").current_dir(&project);
        self.spawn(columns, rows, &project, &in_words(&shell))
    }

    fn spawn(&self, columns: u16, rows: u16, folder: &Path, words: &str) -> anyhow::Result<Pane<'_>> {
        self.panes.set(self.panes.get() + 1);
        let name = format!("p{}", self.panes.get());
        let (x, y) = (columns.to_string(), rows.to_string());
        let folder = folder.to_str().context("a folder's name")?;
        self.tell(&["new-session", "-d", "-x", &x, "-y", &y, "-c", folder, "-s", &name, words])?;
        let pane = Pane { tmux: self, name };
        pane.see(PROMPT.trim_end())?;
        Ok(pane)
    }

    fn tell(&self, words: &[&str]) -> anyhow::Result<String> {
        self.tell_with_input(words, b"")
    }

    fn tell_with_input(&self, words: &[&str], input: &[u8]) -> anyhow::Result<String> {
        let mut command = Command::new("timeout");
        command.args(["20", "tmux", "-u", "-f", "/dev/null", "-S"]).arg(self.folder.path().join("s"));
        command.args(words).env_remove("TMUX").env("LC_ALL", "C.UTF-8").env("SHELL", "/bin/sh");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        child.stdin.take().context("tmux's input")?.write_all(input)?;
        let output = child.wait_with_output()?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "tmux {words:?}: {} {errors}", output.status);
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        // Nothing to kill where it never started.
        let _ = self.tell(&["kill-server"]);
    }
}

impl Pane<'_> {
    /// Types text as it is.
    pub fn keys(&self, text: &str) -> anyhow::Result<()> {
        self.bytes(text.as_bytes())
    }

    /// Types a line.
    pub fn line(&self, text: &str) -> anyhow::Result<()> {
        self.keys(&format!("{text}\r"))
    }

    /// Types bytes.
    pub fn bytes(&self, bytes: &[u8]) -> anyhow::Result<()> {
        for piece in bytes.chunks(400) {
            let hex: Vec<String> = piece.iter().map(|byte| format!("{byte:02x}")).collect();
            let mut words = vec!["send-keys", "-t", &self.name, "-H"];
            words.extend(hex.iter().map(String::as_str));
            self.tmux.tell(&words)?;
        }
        Ok(())
    }

    /// Presses a key by tmux's name for it; tmux sends what the pane's modes ask for.
    pub fn press(&self, key: &str) -> anyhow::Result<()> {
        self.tmux.tell(&["send-keys", "-t", &self.name, key]).map(drop)
    }

    /// Pastes; the text comes bracketed if a program asked the terminal for that.
    pub fn paste(&self, text: &[u8]) -> anyhow::Result<()> {
        let name = &self.name;
        self.tmux.tell_with_input(&["load-buffer", "-b", name, "-"], text)?;
        self.tmux.tell(&["paste-buffer", "-p", "-r", "-d", "-b", name, "-t", name]).map(drop)
    }

    /// Changes the terminal's size.
    pub fn resize(&self, columns: u16, rows: u16) -> anyhow::Result<()> {
        let (x, y) = (columns.to_string(), rows.to_string());
        self.tmux.tell(&["resize-window", "-t", &self.name, "-x", &x, "-y", &y]).map(drop)
    }

    /// What it shows.
    pub fn shown(&self) -> anyhow::Result<Shown> {
        let name = &self.name;
        let words = format!(
            "capture-pane -e -p -t {name} ; display -p -t {name} {MARK} ; \
             capture-pane -e -p -a -q -t {name} ; display -p -t {name} {MARK} ; display -p -t {name}"
        );
        let state = format!("#{{cursor_x}}\n#{{cursor_y}}\n{MODES}\n#{{pane_title}}");
        let mut words: Vec<&str> = words.split(' ').collect();
        words.push(&state);
        let answer = self.tmux.tell(&words)?;
        let mut parts = answer.split(MARK);
        let mut part = || parts.next().unwrap_or_default();
        let (rows, mut under) = (canonical(part()), canonical(part().trim_start_matches('\n')));
        let state: Vec<&str> = part().trim().lines().collect();
        let [x, y, modes, title @ ..] = state.as_slice() else { bail!("tmux's answer: {answer:?}") };
        if !modes.contains("alternate=1") {
            under.clear();
        }
        // tmux gives it the new size only when it is shown again.
        under.truncate(under.iter().rposition(|row| !row.is_empty()).map_or(0, |last| last + 1));
        Ok(Shown {
            rows,
            under,
            cursor: (x.parse()?, y.parse()?),
            modes: (*modes).to_owned(),
            title: title.join("\n"),
        })
    }

    /// The rows without styles.
    pub fn text(&self) -> anyhow::Result<String> {
        self.tmux.tell(&["capture-pane", "-p", "-t", &self.name])
    }

    /// The rows without styles, the scrollback first; rows that wrapped are joined.
    pub fn history(&self) -> anyhow::Result<String> {
        self.tmux.tell(&["capture-pane", "-p", "-J", "-S", "-", "-t", &self.name])
    }

    /// Waits until it shows this text.
    pub fn see(&self, what: &str) -> anyhow::Result<()> {
        self.wait(&format!("{what:?} on the terminal"), |text| text.contains(what))
    }

    /// Waits until its text is as `is_it` wants it.
    pub fn wait(&self, what: &str, is_it: impl Fn(&str) -> bool) -> anyhow::Result<()> {
        until(what, || Ok(is_it(&self.text()?).then_some(())))
            .with_context(|| format!("the terminal shows\n{}", self.text().unwrap_or_default()))
    }

    /// Waits until it shows the same as another terminal, in the same modes.
    pub fn equals(&self, other: &Pane<'_>) -> anyhow::Result<()> {
        let end = Instant::now() + SAME * layer().patience;
        loop {
            let (this, that) = (self.shown()?, other.shown()?);
            if this.program() == that.program() {
                return Ok(());
            }
            ensure!(Instant::now() < end, "{}", this.differences(&that));
            sleep(Duration::from_millis(20));
        }
    }

    /// Process id of its shell.
    pub fn shell(&self) -> anyhow::Result<i32> {
        Ok(self.tmux.tell(&["display", "-p", "-t", &self.name, "#{pane_pid}"])?.trim().parse()?)
    }

    /// The processes that the shell runs.
    pub fn children(&self) -> anyhow::Result<Vec<i32>> {
        let shell = self.shell()?;
        let list = std::fs::read_to_string(format!("/proc/{shell}/task/{shell}/children"))?;
        list.split_whitespace().map(|pid| Ok(pid.parse()?)).collect()
    }

    /// The only process that the shell runs, once there is one.
    pub fn client(&self) -> anyhow::Result<i32> {
        until("a process of the shell", || Ok(self.children()?.first().copied()))
    }

    /// Closes the terminal's window, as a person does who has enough of it.
    pub fn close(self) -> anyhow::Result<()> {
        self.tmux.tell(&["kill-session", "-t", &self.name]).map(drop)
    }
}

impl Shown {
    /// Everything that the program on it decides. A title that nobody set is the host's name in tmux.
    fn program(&self) -> (&[String], &[String], (u32, u32), &str) {
        (&self.rows, &self.under, self.cursor, &self.modes)
    }
}

impl Shown {
    /// What this and another terminal do not have in common.
    fn differences(&self, other: &Self) -> String {
        let mut text =
            format!("cursor {:?} {}\n  here {:?} {}", other.cursor, other.modes, self.cursor, self.modes);
        for (what, here, there) in
            [("row", &self.rows, &other.rows), ("row below", &self.under, &other.under)]
        {
            for at in 0..here.len().max(there.len()) {
                let (here, there) = (here.get(at), there.get(at));
                if here != there {
                    let _always = write!(text, "\n{what} {at} {there:?}\n  here {here:?}");
                }
            }
        }
        text
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "cursor {:?} title {:?} {}", self.cursor, self.title, self.modes)?;
        let filled =
            |rows: &[String]| rows.iter().rposition(|row| !row.is_empty()).map_or(0, |last| last + 1);
        self.rows[..filled(&self.rows)].iter().try_for_each(|row| writeln!(f, "  |{row}"))?;
        self.under[..filled(&self.under)].iter().try_for_each(|row| writeln!(f, " _|{row}"))
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A command as a shell takes it, its environment included and nothing else in it but `TERM`.
fn in_words(command: &Command) -> String {
    let mut words = vec!["exec".to_owned(), "env".to_owned(), "-i".to_owned(), "TERM=\"$TERM\"".to_owned()];
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            words.push(quoted(&format!("{}={}", name.to_string_lossy(), value.to_string_lossy())));
        }
    }
    words.push(quoted(&command.get_program().to_string_lossy()));
    words.extend(command.get_args().map(|word| quoted(&word.to_string_lossy())));
    words.join(" ")
}

/// A word as a shell takes it.
pub fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}
