//! What is found out before Nix is asked for anything.

use agent_tests::Workshop;
use anyhow::ensure;

/// A build can take an hour, and a key that is missing then was missing before.
#[test]
fn a_missing_key_is_said_before_anything_is_built() -> anyhow::Result<()> {
    Workshop::each(|shop| {
        shop.say("start --name web -a codex .")?.exits(4)?.complains("has no key")?;
        ensure!(shop.sandboxes()?.is_empty());
        let list = shop.run(["env", "list", "--json"])?.success()?.json()?;
        ensure!(list == serde_json::json!([]), "{list:#}");
        Ok(())
    })
}
