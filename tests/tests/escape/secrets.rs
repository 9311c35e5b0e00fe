//! Attempts to find a secret anywhere but in its file.

use agent_tests::finish;
use anyhow::ensure;

use crate::board::each_person;
use crate::world::backwards;

#[test]
fn secrets() {
    each_person("secrets", |board, world| {
        let secret = format!("s3cret-{}", world.marker);
        let file = world.home.file("home/key", format!("{secret}\n").as_bytes())?;
        let flag = format!("KEY={}", file.display());
        world.start("box", &["--secret", &flag], &["cat"])?;
        world.start("sibling", &[], &["cat"])?;

        let output = world.sh("box", "cat /run/secrets/KEY")?.success()?;
        board.attempt(
            "the control: it is there",
            if output.text() == secret { Ok(()) } else { Err(anyhow::anyhow!("{output}")) },
        );
        let word = secret.as_str();
        let hunted = world.inside(
            "box",
            &["hunt", &backwards(word), "/proc", "/etc", "/tmp", "/home", "/var", "/dev", "/workspace"],
        );
        board.probed("in environments, command lines and files inside", hunted);
        board.probed(
            "in another sandbox",
            world.inside(
                "sibling",
                &["hunt", &backwards(word), "/proc", "/etc", "/run", "/tmp", "/home", "/workspace"],
            ),
        );
        board.control("in files of the host", world.outside(&["hunt", &backwards(word), &world.at("home")]));
        // As whoever runs the tests, who sees more than the person where that is root.
        let mut hunt = std::process::Command::new(&world.probe);
        hunt.args(["hunt", &backwards(word), "/proc", &world.at("data")]);
        board.probed("in environments and command lines outside, and in the state", finish(hunt, b""));
        let told = ["status", "logs", "events"].map(|what| world.home.run([what, "box"]));
        let told: Vec<_> = told
            .into_iter()
            .chain([world.home.run(["status", "box", "--json"]), world.home.run(["-d", "list"])])
            .collect();
        board.attempt(
            "in what the shim prints",
            told.into_iter().try_for_each(|output| {
                let output = output?;
                ensure!(!output.text().contains(word) && !output.errors().contains(word), "{output}");
                Ok(())
            }),
        );
        let script = "( echo x >> /run/secrets/KEY ) 2> /dev/null && echo written; chmod 666 /run/secrets/KEY 2> /dev/null && echo chmod
                      rm -f /run/secrets/KEY 2> /dev/null; ( echo x > /run/secrets/NEW ) 2> /dev/null && echo new; cat /run/secrets/KEY";
        let output = world.sh("box", script)?;
        board.attempt(
            "changing it",
            if output.text() == secret { Ok(()) } else { Err(anyhow::anyhow!("{output}")) },
        );
        Ok(())
    });
}
