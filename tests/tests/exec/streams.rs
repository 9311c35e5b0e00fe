//! What goes in and comes out, byte for byte.

use std::{fs, io::Read};

use agent_tests::{Sandbox, Who, finish, layer};

/// More than any pipe, ring or frame holds.
const BULK_BYTES: u64 = 64 * 1024 * 1024;

fn random(bytes: u64) -> anyhow::Result<Vec<u8>> {
    let mut random = Vec::new();
    fs::File::open("/dev/urandom")?.take(bytes).read_to_end(&mut random)?;
    Ok(random)
}

#[test]
fn binary_bulk_goes_in_and_comes_out_unchanged() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().who(Who::Ordinary).start()?;
    let bulk = random(BULK_BYTES)?;
    let echoed = sandbox.run_with_input(["exec", "-i", "box", "--", "cat"], &bulk)?;
    assert_eq!(echoed.code(), 0, "{}", echoed.errors());
    assert!(echoed.stdout == bulk, "{} of {} bytes, or others", echoed.stdout.len(), bulk.len());
    assert_eq!(echoed.stderr, b"");
    Ok(())
}

/// Both ways are full then, and neither may keep the other from going on.
#[test]
fn whoever_looks_away_while_bulk_goes_both_ways_gets_all_of_it() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().who(Who::Ordinary).start()?;
    let bulk = random(8 * 1024 * 1024)?;
    fs::write(sandbox.path().join("bulk"), &bulk)?;
    let shim = agent_tests::agent_shim().display();
    let script = format!("{shim} exec -i box -- cat < bulk | {{ sleep 3; cat; }}");
    let mut command = sandbox.command("sh", ["-c", &script]);
    command.current_dir(sandbox.path());
    let output = finish(command, b"")?.exits(0)?;
    assert!(output.stdout == bulk, "{} of {} bytes, or others", output.stdout.len(), bulk.len());
    Ok(())
}

#[test]
fn both_outputs_are_exact_and_apart() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().start()?;
    let bulk = random(4 * 1024 * 1024)?;
    let split = "tee /proc/self/fd/2";
    let output = sandbox.run_with_input(["exec", "-i", "box", "--", "sh", "-c", split], &bulk)?.exits(0)?;
    assert!(output.stdout == bulk && output.stderr == bulk);
    let output = sandbox.sh("printf out; printf err >&2; printf put; exit 3")?.exits(3)?;
    assert_eq!((&output.stdout[..], &output.stderr[..]), (&b"output"[..], &b"err"[..]));
    let every_byte = sandbox.sh("perl -e 'print map { chr } 0..255'")?.exits(0)?;
    assert_eq!(every_byte.stdout, (0..=255).collect::<Vec<u8>>());
    Ok(())
}

#[test]
fn a_tree_of_files_travels_as_a_tar_stream() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().who(Who::Ordinary).start()?;
    let tree = sandbox.path().join("tree");
    fs::create_dir(&tree)?;
    for (name, bytes) in [("a", 0), ("b/c", 3_000_000), ("b/d e\n\u{e9}", 17)] {
        let path = tree.join(name);
        fs::create_dir_all(path.parent().unwrap())?;
        fs::write(path, random(bytes)?)?;
    }
    std::os::unix::fs::symlink("../a", tree.join("b/link"))?;
    let shim = agent_tests::agent_shim().display();
    // As the person would type it.
    let there = format!("tar c . | {shim} exec -i box -- tar x -C /tmp");
    let mut command = sandbox.command("sh", ["-c", &there]);
    command.current_dir(&tree);
    let output = finish(command, b"")?.exits(0)?;
    assert_eq!(output.errors(), "");
    let sums =
        "find a b -type f -print0 | sort -z | xargs -0 sha256sum; find a b -printf '%P %y %l\\n' | sort";
    let mut command = sandbox.command("sh", ["-c", sums]);
    command.current_dir(&tree);
    let expected = finish(command, b"")?.exits(0)?.text();
    assert_eq!(expected.lines().count(), 9, "{expected}");
    assert_eq!(sandbox.sh(&format!("cd /tmp && {sums}"))?.exits(0)?.text(), expected);
    Ok(())
}

#[test]
fn a_command_that_reads_no_input_ends_and_so_do_we() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().start()?;
    // The input is far more than all pipes on the way can hold.
    sandbox.run_with_input(["exec", "-i", "box", "--", "true"], &random(8 * 1024 * 1024)?)?.exits(0)?;
    // Without -i there is no input at all.
    let output = sandbox.run_with_input(["exec", "box", "--", "cat"], b"not for it")?.exits(0)?;
    assert_eq!(output.text(), "");
    Ok(())
}

#[test]
fn a_reader_that_has_enough_ends_it_quietly() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().start()?;
    let shim = agent_tests::agent_shim().display();
    let script =
        format!("{shim} exec box -- yes | head -1; {shim} exec -i box -- cat </dev/zero | head -c 5 | wc -c");
    let output = finish(sandbox.command("sh", ["-c", &script]), b"")?.exits(0)?;
    assert_eq!((output.text().as_str(), output.errors().as_str()), ("y\n5", ""));
    // And `yes` is gone.
    sandbox.sh("! pgrep -x yes")?.exits(0)?;
    Ok(())
}

/// What a command leaves running may keep its streams open for as long as it likes.
#[test]
fn what_stays_in_the_background_does_not_hold_the_client() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().start()?;
    let output = sandbox.sh("sleep 1000 & echo done")?.exits(0)?;
    assert_eq!(output.text(), "done");
    // Nor if it never stops writing.
    let a_while = 0.1 * f64::from(layer().patience.pow(2));
    let output = sandbox.sh(&format!("yes & sleep {a_while}; exit 4"))?.exits(4)?;
    assert!(output.stdout.starts_with(b"y\ny\n"));
    Ok(())
}

#[test]
fn everything_written_before_the_exit_arrives() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().start()?;
    for _ in 0..30 {
        let output = sandbox.sh("head -c 300000 /dev/zero; head -c 70000 /dev/zero >&2; exit 1")?.exits(1)?;
        assert_eq!((output.stdout.len(), output.stderr.len()), (300_000, 70_000));
    }
    Ok(())
}
