//! Gives up capabilities, and refuses to go on with any that could reach a program.

use anyhow::{Context, Result, bail};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities,
};

/// Keeps `keep` for init and nothing for programs.
///
/// A program's capabilities come from three sets of init's: bounding (for root and for file capabilities),
/// inheritable, and ambient, which is part of inheritable. With those empty, what init keeps stays with init.
pub(super) fn give_up(keep: CapabilitySet) -> Result<()> {
    // An older kernel has no ambient set; then there is nothing to clear.
    let _ = clear_ambient_capability_set();
    let mut bounding = bounding_set();
    if !bounding.is_empty() {
        for capability in bounding.iter() {
            // Fails without CAP_SETPCAP; what is left is told below.
            let _ = remove_capability_from_bounding_set(capability);
        }
        bounding = bounding_set();
    }
    let held = capabilities(None).context("reading capabilities")?;
    let kept = held.permitted & keep;
    let wanted = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    set_capabilities(None, wanted).context("giving up capabilities")?;

    refuse_leftovers(&Leftovers { held: held_now()? - keep, bounding })
}

/// What should be gone and is not.
struct Leftovers {
    held: CapabilitySet,
    bounding: CapabilitySet,
}

fn refuse_leftovers(left: &Leftovers) -> Result<()> {
    if !left.held.is_empty() {
        bail!("refusing to start anything: init still holds {}", names(left.held));
    }
    if !left.bounding.is_empty() {
        bail!(
            "refusing to start anything: the capability bounding set still holds {} \
             (whoever starts init has to empty it, as `bwrap --cap-drop ALL` does)",
            names(left.bounding)
        );
    }
    Ok(())
}

fn held_now() -> Result<CapabilitySet> {
    let now = capabilities(None).context("reading capabilities")?;
    Ok(now.effective | now.permitted | now.inheritable)
}

/// Also knows capabilities that are newer than this program: the kernel says where they end.
fn bounding_set() -> CapabilitySet {
    (0..u64::BITS)
        .map(|number| CapabilitySet::from_bits_retain(1 << number))
        .map_while(|capability| Some((capability, capability_is_in_bounding_set(capability).ok()?)))
        .filter_map(|(capability, contained)| contained.then_some(capability))
        .collect()
}

fn names(set: CapabilitySet) -> String {
    let mut known = set.iter_names();
    let mut list: Vec<String> = known.by_ref().map(|(name, _)| format!("CAP_{name}")).collect();
    if !known.remaining().is_empty() {
        list.push(format!("others ({:#x})", known.remaining().bits()));
    }
    list.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_named() {
        let held = CapabilitySet::SYS_ADMIN | CapabilitySet::from_bits_retain(1 << 60);
        let error = refuse_leftovers(&Leftovers { held, bounding: CapabilitySet::empty() });
        assert!(
            error
                .expect_err("something is left")
                .to_string()
                .contains("CAP_SYS_ADMIN, others (0x1000000000000000)")
        );

        let bounding = CapabilitySet::NET_RAW;
        let error = refuse_leftovers(&Leftovers { held: CapabilitySet::empty(), bounding });
        assert!(error.expect_err("something is left").to_string().contains("CAP_NET_RAW"));
    }
}
