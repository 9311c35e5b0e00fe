//! A machine's card in a bridge of the host's, in a network that gives addresses: real ones, in a network namespace of the test's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use agent_tests::{Home, Output, Share, Who, agent_shim, finish_within};
use anyhow::{Context, ensure};

use crate::hostile::Outside;

/// The host in its bridge.
const HOST: &str = "10.77.0.1";

/// For some boots, one after the other.
const WITHIN: Duration = Duration::from_mins(5);

/// What the host says to who connects.
const PORT: u16 = 7007;
const WORDS: &str = "words-of-the-host";

/// A network with a bridge, a server that gives addresses when `dhcp` is called, and another one that says something. The rules for
/// the helper, and a helper that an ordinary person can use, are this namespace's alone.
const NETWORK: &str = r#"
set -e
ip link set lo up
ip link add br0 type bridge
ip address add $HOST/24 dev br0
ip link set br0 up
mount -t tmpfs tmpfs "$ROOM"
mkdir "$ROOM/upper" "$ROOM/work" "$ROOM/bin" "$ROOM/leases"
mount -t overlay overlay -o "lowerdir=/etc,upperdir=$ROOM/upper,workdir=$ROOM/work" /etc
mkdir -p /etc/qemu
echo 'allow br0' > /etc/qemu/bridge.conf
install -m 4755 "$HELPER" "$ROOM/bin/qemu-bridge-helper"
# As udev makes it: the helper gives up being root before it opens this.
mknod -m 666 "$ROOM/tun" c 10 200
mount --bind "$ROOM/tun" /dev/net/tun
cat > "$ROOM/bin/dhcp" <<'END'
exec dnsmasq --conf-file=/dev/null --keep-in-foreground --port=0 --interface=br0 --bind-interfaces --no-ping \
    --dhcp-range=10.77.0.50,10.77.0.90,2m --dhcp-option=option:dns-server,10.77.0.53 --user=root --group=root \
    --dhcp-leasefile="$ROOM/leases/file" --pid-file="$ROOM/leases/pid" --log-facility="$ROOM/leases/log"
END
chmod +x "$ROOM/bin/dhcp"
socat TCP-LISTEN:$PORT,bind=$HOST,fork,reuseaddr "SYSTEM:echo $WORDS" &
PATH=$ROOM/bin:$PATH
as_person() { setpriv --reuid $PERSON --regid $PERSON --clear-groups "$SHIM" "$@"; }
start() { as_person start --name "$1" --network bridge=br0 --env host project -- cat; }
inside() { name=$1; shift; as_person exec "$name" -- bash -c "$*"; }
trap 'kill $(jobs -p)' EXIT
"#;

/// Runs a script there, as this person where it says so.
fn in_the_network(home: &Home, script: &str) -> anyhow::Result<Output> {
    let helper = ["/usr/lib/qemu/qemu-bridge-helper", "/usr/libexec/qemu-bridge-helper"].map(PathBuf::from);
    let helper = helper.into_iter().find(|path| path.exists()).context("no qemu-bridge-helper")?;
    let room = home.path().join("room");
    fs::create_dir_all(&room)?;
    let mut outer = Command::new("unshare");
    outer.args(["--net", "--mount", "bash", "-c", &format!("{NETWORK}{script}")]).env_clear();
    outer.current_dir(home.path());
    for (name, value) in home.shim(["list"]).get_envs() {
        outer.env(name, value.unwrap_or_default());
    }
    let texts = [("HOST", HOST.to_owned()), ("PORT", PORT.to_string()), ("PERSON", home.uid().to_string())];
    outer.envs(texts).env("WORDS", WORDS).env("ROOM", &room).env("HELPER", helper).env("SHIM", agent_shim());
    finish_within(WITHIN, outer, b"")
}

/// Somebody whose machines are as the tests' are. `None`, and told, where there are none or no network can be made.
fn person(who: Who) -> anyhow::Result<Option<Home>> {
    if !nix::unistd::geteuid().is_root() {
        agent_tests::skip("only root can make a bridge");
        return Ok(None);
    }
    let Some((_, home)) = Outside::new(who, Share::Virtiofs)? else { return Ok(None) };
    home.project("project")?;
    Ok(Some(home))
}

fn programs_are_there() -> anyhow::Result<()> {
    for program in ["dnsmasq", "ip", "socat"] {
        let places = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"];
        ensure!(
            places.iter().any(|place| Path::new(place).join(program).exists()),
            "no {program}: `.ci/setup --tests`"
        );
    }
    Ok(())
}

#[test]
fn it_has_an_address_of_the_network_and_the_next_start_has_it_too() -> anyhow::Result<()> {
    programs_are_there()?;
    for who in [Who::Ordinary, Who::Myself] {
        let Some(home) = person(who)? else { return Ok(()) };
        let script = r#"
            dhcp &
            start one; start two
            as_person status one
            inside one 'cat /etc/resolv.conf; cat < /dev/tcp/$HOST/$PORT'
            inside one 'echo nameserver 6.6.6.6 > /etc/resolv.conf' 2> /dev/null || echo refused
            inside one 'ls -d /names' 2> /dev/null || echo gone
            inside two 'cat < /dev/tcp/$HOST/$PORT'
            as_person stop one; as_person start one
            inside one 'cat < /dev/tcp/$HOST/$PORT'
            cut -d ' ' -f 2-4 "$ROOM/leases/file"
            as_person destroy --force one; as_person destroy --force two
        "#;
        let script = script.replace("$HOST", HOST).replace("$PORT", &PORT.to_string());
        let output = in_the_network(&home, &script)?.success()?;
        let text = output.text();
        ensure!(text.matches(WORDS).count() == 3, "{who:?}: {output}");
        ensure!(
            text.contains("nameserver 10.77.0.53\n") && text.contains("\nrefused\ngone\n"),
            "{who:?}: {output}"
        );
        ensure!(text.contains("bridge=br0") && !text.contains("gave no address"), "{who:?}: {output}");
        // One for each, also after the second start: hardware address, address, name.
        let mut leases: Vec<Vec<&str>> = text
            .lines()
            .filter(|line| line.starts_with("52:54:00:"))
            .map(|line| line.split(' ').collect())
            .collect();
        leases.sort_by_key(|lease| lease[2]);
        let names: Vec<&str> = leases.iter().map(|lease| lease[2]).collect();
        ensure!(names == ["one", "two"], "{who:?}: {leases:?}");
        ensure!(leases[0][0] != leases[1][0] && leases[0][1] != leases[1][1], "{who:?}: {leases:?}");
    }
    Ok(())
}

/// Who gives addresses can be down for a while, and the work goes on.
#[test]
fn without_an_address_it_starts_and_goes_on_asking() -> anyhow::Result<()> {
    programs_are_there()?;
    let Some(home) = person(Who::Ordinary)? else { return Ok(()) };
    let script = r"
        start late
        as_person status late | grep 'gave no address'
        inside late 'cat /etc/resolv.conf'
        dhcp &
        for second in $(seq 100); do
            inside late 'cat < /dev/tcp/$HOST/$PORT' 2> /dev/null && break || sleep 1
        done
        inside late 'cat /etc/resolv.conf'
        as_person destroy --force late
    ";
    let script = script.replace("$HOST", HOST).replace("$PORT", &PORT.to_string());
    let output = in_the_network(&home, &script)?.success()?;
    let text = output.text();
    for said in ["gave no address", "# The network names no server", WORDS, "nameserver 10.77.0.53"] {
        ensure!(text.contains(said), "no `{said}` in {output}");
    }
    Ok(())
}

#[test]
fn a_bridge_that_it_may_not_join_is_said_and_leaves_nothing() -> anyhow::Result<()> {
    programs_are_there()?;
    let Some(home) = person(Who::Ordinary)? else { return Ok(()) };
    let script = r#"
        set +e
        as_person start --name other --network bridge=br1 --env host project -- cat; echo "code $?"
        echo 'allow br1' >> /etc/qemu/bridge.conf
        as_person start --name other --network bridge=br1 --env host project -- cat; echo "code $?"
        chmod u-s "$ROOM/bin/qemu-bridge-helper"
        start other; echo "code $?"
        as_person list --json
    "#;
    let output = in_the_network(&home, script)?;
    ensure!(output.text().matches("code 4").count() == 3 && output.text().contains("[]"), "{output}");
    let output = output.complains("cannot be put into the bridge br1: access denied by acl file")?;
    let output = output.complains("failed to get mtu of bridge `br1'")?;
    output.complains("allow br0")?.complains("chmod u+s")?;
    let left = agent_tests::Traces::of(&home)?.processes;
    ensure!(left.is_empty(), "{left:#?}");
    Ok(())
}
