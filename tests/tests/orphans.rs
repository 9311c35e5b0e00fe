//! What loses its parent becomes init's, and is reaped.

use agent_tests::{Sandbox, layer, until};

/// Ten thousand daemons as they are made, by two forks, while commands go on; fewer where each takes a machine longer.
#[test]
fn ten_thousand_orphans_leave_no_zombie_while_commands_go_on() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().start()?;
    // The first child ends at once; the second, an orphan by then, soon after.
    let count = layer().often(10_000) as u64;
    let fork = "for (1..COUNT) { my $p = fork; die unless defined $p; if (!$p) { fork; exit } waitpid $p, 0 } \
                open(F, '>', '/tmp/forked')";
    let fork = fork.replace("COUNT", &count.to_string());
    sandbox.run(["exec", "--detach", "box", "--", "perl", "-e", &fork])?.exits(0)?;
    let mut commands = 0;
    until("all of them to be forked", || {
        commands += 1;
        Ok((sandbox.sh("test -e /tmp/forked")?.code() == 0).then_some(()))
    })?;
    assert!(commands > 1, "the commands came too late to prove anything");
    until("no zombie to be left", || {
        let zombies = sandbox.sh("grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l")?.exits(0)?;
        Ok((zombies.text() == "0").then_some(()))
    })?;
    let reaped = sandbox.status()?["init"]["orphans_reaped"].as_u64();
    assert!(reaped.is_some_and(|all| (count - 10..=count + 500).contains(&all)), "{reaped:?}");
    // Told between other events and once a second, not each for itself; the last ones may still be untold.
    let events = sandbox.events()?;
    let told: Vec<u64> = events
        .iter()
        .filter(|event| event["event"] == "orphan-reaped")
        .filter_map(|event| event["count"].as_u64())
        .collect();
    let others = events.len() - told.len();
    assert!(told.len() <= others + 60, "{} events about orphans beside {others}", told.len());
    assert!((count * 9 / 10..=count + 500).contains(&told.iter().sum::<u64>()), "{told:?}");
    Ok(())
}

#[test]
fn one_orphan_is_told_and_its_exit_is_nobody_elses() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().start()?;
    // The orphan fails; the command that left it behind did not.
    sandbox.sh("(sh -c 'sleep 0.1; exit 77' >/dev/null 2>&1 &)")?.exits(0)?;
    let event = sandbox.wait_for_event("orphan-reaped")?;
    assert_eq!(event["count"], 1);
    assert_eq!(sandbox.status()?["agent"]["state"], "starting", "the agent is not concerned");
    Ok(())
}

/// What a parent leaves unreaped is its own business until it ends; then it is init's.
#[test]
fn the_zombies_of_a_careless_parent_go_with_it() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().start()?;
    let careless = "for (1..50) { fork or exit } $| = 1; print qq(up\\n); sleep 1 until -e '/tmp/go'";
    sandbox.run(["exec", "--detach", "box", "--", "perl", "-e", careless])?.exits(0)?;
    let zombies = || -> anyhow::Result<String> {
        Ok(sandbox.sh("grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l")?.text())
    };
    until("its zombies", || Ok((zombies()? == "50").then_some(())))?;
    sandbox.sh("touch /tmp/go")?;
    until("init to have reaped them", || Ok((zombies()? == "0").then_some(())))
}
