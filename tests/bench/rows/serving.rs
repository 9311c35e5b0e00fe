//! What serves git inside, by itself: our own program beside git.

use std::{
    fs::File,
    path::Path,
    process::{Command, Stdio},
};

use agent_tests::agent_git;

use super::{Setting, against, pulls};
use crate::{
    rounds::{Contender, in_turn},
    table::{Row, Unit},
    tools::{find, millis, timed},
};

/// One new commit and everything, of a repository of about 32,000 objects and 100 MB, from the server's start to its end.
pub(super) fn upload_pack(setting: &Setting<'_>) -> anyhow::Result<Vec<Row>> {
    let git = find("git")?;
    let folder = setting.workshop.path("served");
    pulls::fill(&git, &folder)?;
    let old = head(&git, &folder)?;
    pulls::commit(&git, &folder, 0)?;
    let new = head(&git, &folder)?;
    let mut rows = Vec::new();
    for (name, what, have, rounds) in [
        ("serve", "upload-pack of one new commit", Some(&old), 100),
        ("serve-all", "upload-pack of everything", None, 5),
    ] {
        let said = setting.workshop.path(name);
        std::fs::write(&said, request(&new, have.map(String::as_str)))?;
        let serve = |program: &Path| {
            let mut command = Command::new(program);
            command.arg("upload-pack").arg(&folder).env("GIT_PROTOCOL", "version=2");
            command.stdin(File::open(&said)?).stdout(Stdio::piped()).stderr(Stdio::null());
            // Somebody reads it, as a client does.
            let mut drain = Command::new("cat");
            let began = std::time::Instant::now();
            let mut server = command.spawn()?;
            drain.stdin(server.stdout.take().map_or(Stdio::null(), Stdio::from)).stdout(Stdio::null());
            timed(&mut drain)?;
            anyhow::ensure!(server.wait()?.success(), "{} has failed", program.display());
            Ok(millis(began.elapsed()))
        };
        let contenders = vec![
            Contender::repeated("agent-git", 1, || serve(agent_git())),
            Contender::repeated("git", 1, || serve(&git)),
        ];
        rows.push(Row {
            name,
            what: what.to_owned(),
            unit: Unit::Milliseconds,
            series: in_turn(setting.rounds(rounds), contenders)?,
            targets: vec![against("agent-git", "git", 1.0)],
        });
    }
    Ok(rows)
}

fn head(git: &Path, folder: &Path) -> anyhow::Result<String> {
    let output = Command::new(git).arg("-C").arg(folder).args(["rev-parse", "HEAD"]).output()?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// Everything that a client says, at once.
fn request(want: &str, have: Option<&str>) -> Vec<u8> {
    let packet = |text: &str| format!("{:04x}{text}\n", text.len() + 5).into_bytes();
    let have = have.map(|have| format!("have {have}"));
    let wish = format!("want {want}");
    let mut lines = vec!["thin-pack", "ofs-delta", "no-progress", &wish];
    lines.extend(have.as_deref());
    lines.push("done");
    let mut said = packet("command=fetch");
    said.extend_from_slice(b"0001");
    said.extend(lines.into_iter().flat_map(packet));
    said.extend_from_slice(b"00000000");
    said
}
