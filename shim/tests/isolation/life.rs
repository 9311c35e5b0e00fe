//! What lives on when something of ours dies, and how an end is recorded.

use std::fs;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};

use agent_shim::isolation::{Caller, Layer, Process, PromisedFd};
use rustix::process::Signal;

use super::world::{DEADLINE, each_user, layer, reap};

#[test]
fn init_and_its_listener_outlive_bwrap() {
    each_user("life::init_and_its_listener_outlive_bwrap", |world| {
        let socket = world.path("control.sock");
        let listener = UnixListener::bind(&socket)?;
        world.request.fds = vec![PromisedFd { name: "control", number: 3 }];
        let (launched, mut output) =
            world.launch("echo up; exec sleep 60", vec![("control", listener.into())])?;
        output.line("up")?;
        let init = world.init()?;

        launched.supervisor.signal(Signal::KILL)?;
        reap(&launched)?;
        assert!(init.alive()?, "init died with bwrap");
        UnixStream::connect(&socket)?;
        assert_eq!(layer().report(world.folder.path())?.exit_code, None);

        let found = Process::find(init.id())?.ok_or("init cannot be found by what was recorded")?;
        found.signal(Signal::KILL)?;
        assert!(init.exited_within(DEADLINE)?);
        let refused = UnixStream::connect(&socket).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        Ok(())
    });
}

#[test]
fn the_record_says_how_init_ended() {
    each_user("life::the_record_says_how_init_ended", |world| {
        let (launched, mut output) = world.launch("echo up; exec sleep 60", vec![])?;
        output.line("up")?;
        let init = world.init()?;
        let expected = match world.request.caller {
            Caller::Ordinary => rustix::process::getuid().as_raw(),
            Caller::Root { runs_as } => runs_as,
        };
        let status = fs::read_to_string(format!("/proc/{}/status", init.id().pid))?;
        assert!(
            status.contains(&format!("\nUid:\t{expected}\t{expected}\t{expected}\t{expected}\n")),
            "{status}"
        );
        init.signal(Signal::KILL)?;
        assert_eq!(reap(&launched)?, 137);
        assert_eq!(layer().report(world.folder.path())?.exit_code, Some(137));
        launched.remains.clean()?;
        Ok(())
    });
}

#[test]
fn a_run_nobody_comes_back_to_can_end_with_its_parent() {
    each_user("life::a_run_nobody_comes_back_to_can_end_with_its_parent", |world| {
        world.request.dies_with_parent = true;
        let (launched, mut output) = world.launch("echo up; exec sleep 60", vec![])?;
        output.line("up")?;
        let init = world.init()?;
        // For init bwrap is the parent; that bwrap follows us is the same option.
        launched.supervisor.signal(Signal::KILL)?;
        assert!(init.exited_within(DEADLINE)?);
        reap(&launched)?;
        Ok(())
    });
}
