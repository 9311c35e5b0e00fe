//! What of a real store can be used in a sandbox: the environment, or everything.

use std::path::Path;

use agent_tests::{Home, Output, Workshop};
use anyhow::ensure;

/// Tries to read and to execute another package.
fn others(shop: &Workshop, name: &str, other: &Path) -> anyhow::Result<[Output; 2]> {
    let other = other.display();
    Ok([
        shop.inside(name, &format!("cat {other}/bin/hello >/dev/null"))?,
        shop.inside(name, &format!("{other}/bin/hello"))?,
    ])
}

fn cannot_use(shop: &Workshop, name: &str, other: &Path) -> anyhow::Result<()> {
    for output in others(shop, name, other)? {
        ensure!(output.code() != 0, "{output}");
    }
    // What is its own works, down to the C library, and one can look around.
    let own = "git --version; node -p 1; /usr/bin/env jq --version; ls -L /env/bin / >/dev/null";
    shop.inside(name, own)?.success()?;
    Ok(())
}

#[test]
fn other_packages_can_be_used_only_where_the_whole_store_is_asked_for() -> anyhow::Result<()> {
    Workshop::each(|shop| {
        let other = shop.nix().build(&shop, "hello")?;
        shop.start("usual", "")?.success()?;
        shop.start("closure", "--store closure")?.success()?;
        shop.start("whole", "--store whole")?.success()?;
        for output in others(&shop, "whole", &other)? {
            output.success()?;
        }
        cannot_use(&shop, "usual", &other)?;
        cannot_use(&shop, "closure", &other)?;
        // It is kept for the next start, and can be changed.
        shop.stop("whole")?;
        shop.run(["start", "whole"])?.success()?;
        shop.inside("whole", &format!("{}/bin/hello", other.display()))?.success()?;
        shop.stop("whole")?;
        shop.run(["start", "whole", "--store", "closure"])?.success()?;
        cannot_use(&shop, "whole", &other)?;
        // Nothing in the store can be written to, whoever it belongs to.
        for name in ["closure", "usual"] {
            let store = shop.nix().store();
            let script = format!(
                "touch {}/new; echo x >{}/new; chmod u+w $(readlink -f /env)",
                store.display(),
                other.display()
            );
            ensure!(shop.inside(name, &script)?.code() != 0);
        }
        Ok(())
    })
}

const INNER: &str = "bwrap --unshare-all --ro-bind / / --dev /dev --proc /proc --tmpfs /tmp jq -n 1+1";

/// An agent that runs its tools in sandboxes of its own, with the bubblewrap of its environment.
#[test]
fn sandboxes_inside_work_where_they_are_allowed() -> anyhow::Result<()> {
    Workshop::each(|shop| {
        let other = shop.nix().build(&shop, "hello")?;
        shop.start("nested", "--nested --store closure --nix-packages bubblewrap")?.success()?;
        let inner = shop.inside("nested", INNER)?.success()?;
        ensure!(inner.text() == "2", "{inner}");
        cannot_use(&shop, "nested", &other)?;
        // Not by way of an inner one either.
        let root = INNER.replace("jq -n 1+1", &format!("{}/bin/hello", other.display()));
        ensure!(shop.inside("nested", &root)?.code() != 0);
        shop.start("whole", "--nested --store whole --nix-packages bubblewrap")?.success()?;
        shop.inside("whole", INNER)?.success()?;
        shop.start("plain", "--nix-packages bubblewrap")?.success()?;
        ensure!(shop.inside("plain", INNER)?.code() != 0);
        Ok(())
    })
}

/// The store is where the sandbox has a folder of its own.
#[test]
fn a_store_below_tmp_can_be_used() -> anyhow::Result<()> {
    let who = Home::everyone()[0];
    let Some(shop) = Workshop::private(who)? else { return Ok(()) };
    let other = shop.nix().build(&shop, "hello")?;
    for (name, store) in [("whole", "whole"), ("closure", "closure")] {
        shop.start(name, &format!("-I nix:packages=kubectl,coreutils --store {store}"))?.success()?;
        let output = shop.inside(name, "kubectl in a store; echo x >/tmp/mine; cat /tmp/mine")?.success()?;
        ensure!(output.text() == "kubectl: in a store\nx", "{output}");
        ensure!(
            (shop.inside(name, &format!("{}/bin/hello", other.display()))?.code() == 0) == (store == "whole")
        );
        let left = shop.inside(name, "ls /tmp")?.success()?;
        ensure!(left.text().lines().count() == 2, "{left}");
    }
    Ok(())
}
