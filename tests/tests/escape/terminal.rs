//! Attempts on the terminal of whoever looks from outside.

use anyhow::ensure;

use crate::board::each_person;
use crate::world::PROBE;

#[test]
fn what_is_printed_cannot_act() {
    each_person("printing", |board, world| {
        world.start("box", &[], &[PROBE, "hostile-output"])?;
        agent_tests::until("the agent's output", || {
            let output = world.home.run(["logs", "box", "--raw"])?.success()?;
            Ok(output.text().contains("behind").then_some(()))
        })?;
        let raw = world.home.run(["logs", "box", "--raw"])?.success()?;
        board.attempt(
            "the control: the raw log acts",
            if harmless(&raw.stdout).is_err() { Ok(()) } else { Err(anyhow::anyhow!("{raw}")) },
        );
        for words in [
            &["logs", "box"][..],
            &["list"],
            &["list", "--json"],
            &["status", "box"],
            &["status", "box", "--json"],
            &["events", "box"],
            &["events", "box", "--json"],
            &["exec", "box", "--", "/no/\u{1b}[2J\u{9b}2Jsuch"],
            &["exec", "box", "-w", "/no/\u{1b}[2Jsuch", "--", "true"],
            &["status", "\u{1b}[2Jno-such"],
            &["list", "--\u{1b}[2J"],
        ] {
            let output = world.home.run(words)?;
            let shown =
                words.iter().map(|word| word.escape_debug().to_string()).collect::<Vec<_>>().join(" ");
            let both = [output.stdout.as_slice(), &output.stderr].concat();
            ensure!(!both.is_empty(), "nothing was printed by {output}");
            board.attempt(&format!("escape sequences in `{shown}`"), harmless(&both));
        }
        Ok(())
    });
}

/// No control characters but the end of a line and the tab, C1 in neither of its encodings.
fn harmless(printed: &[u8]) -> anyhow::Result<()> {
    let text = String::from_utf8_lossy(printed);
    let acts = text.chars().find(|c| c.is_control() && !['\n', '\t'].contains(c));
    ensure!(acts.is_none(), "{acts:?} in {text:?}");
    // A terminal that is not in UTF-8 mode takes a byte for C1; as a part of a character it cannot be told apart.
    let broken =
        printed.utf8_chunks().find(|chunk| chunk.invalid().iter().any(|byte| (0x80..0xa0).contains(byte)));
    ensure!(broken.is_none(), "a byte of C1 in {text:?}");
    Ok(())
}
