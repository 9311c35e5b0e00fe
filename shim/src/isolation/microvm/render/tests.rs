use super::*;
use crate::isolation::microvm::testing::{machine, plan};

fn host() -> Host {
    let link = |path: &str, to: &str| (PathBuf::from(path), Some(PathBuf::from(to)));
    Host { system: vec![("/usr".into(), None), link("/bin", "usr/bin")] }
}

fn job(plan: &LaunchPlan) -> Job {
    let places = Places::new(plan, "/usr/bin/agent-shim".into());
    let machine = plan.machine.clone().unwrap();
    render(plan, &machine, &places, &host()).job
}

fn with(change: impl FnOnce(&mut MachinePlan)) -> LaunchPlan {
    let mut machine = machine();
    change(&mut machine);
    LaunchPlan { machine: Some(machine), ..plan() }
}

fn names(job: &Job) -> Vec<&str> {
    job.parts.iter().map(|part| part.name.as_str()).collect()
}

#[test]
fn the_parts_come_in_order_and_the_machine_last() {
    let all = job(&plan());
    assert_eq!(names(&all), ["passt", "virtiofsd", "vhost-device-vsock", "qemu-system-x86_64"]);
    // Only who carries packets is left in the host's network.
    assert_eq!(all.parts.iter().map(|part| part.network).collect::<Vec<_>>(), [true, false, false, false]);
    let least = job(&with(|machine| {
        machine.card = Card::None;
        machine.files = Files::Plan9;
        machine.vsock = Vsock::Host { cid: 77 };
    }));
    assert_eq!(names(&least), ["qemu-system-x86_64"]);
    assert!(least.numbers.vhost_vsock.is_some());
    assert!(least.parts[0].args.iter().any(|arg| arg.starts_with("local,id=share,path=/tree,")));
    assert!(!least.parts[0].args.contains(&"-netdev".to_owned()));
}

#[test]
fn a_part_has_the_descriptors_that_its_arguments_name_and_no_others() {
    let bridged = with(|machine| {
        let (helper, name) = ("/usr/lib/qemu/helper".into(), "br0".to_owned());
        machine.card = Card::Bridge { helper, name, hardware: [0x52, 0x54, 0, 0xa, 0xb, 0xc] };
        machine.vsock = Vsock::Host { cid: 77 };
    });
    for plan in [plan(), bridged] {
        let job = job(&plan);
        for part in &job.parts {
            let named = |number: &&i32| {
                let args = part.args.join(" ") + " ";
                [
                    format!("fd={number} "),
                    format!("fd={number},"),
                    format!("fd/{number} "),
                    format!("--fd {number} "),
                ]
                .iter()
                .any(|text| args.contains(text.as_str()))
            };
            assert!(part.wires.iter().all(|number| named(&number)), "{part:?}");
            let mut once = part.wires.clone();
            once.sort_unstable();
            once.dedup();
            assert_eq!(once.len(), part.wires.len(), "{part:?}");
        }
        let listening = job.parts.iter().filter_map(|part| part.listens.as_ref());
        let machine = job.parts.last().unwrap();
        assert!(listening.clone().all(|(_, number)| machine.wires.contains(number)));
    }
}

#[test]
fn nothing_inside_finds_a_way_to_command_the_machine() {
    let machine = job(&plan()).parts.pop().unwrap();
    for option in ["-monitor", "-qmp", "-mon", "-gdb", "-s", "-vnc", "-usb"] {
        assert!(!machine.args.contains(&option.to_owned()), "{option}");
    }
    for (option, value) in [("-display", "none"), ("-m", "2048M"), ("-smp", "2"), ("-cpu", "max")] {
        assert!(machine.args.windows(2).any(|two| two == [option, value]), "{option}");
    }
    assert!(machine.args.contains(&"-nodefaults".to_owned()));
    assert!(machine.args.iter().any(|arg| arg.starts_with("on,") && arg.contains("spawn=deny")));
}

#[test]
fn the_hosts_loopback_is_nobodys_gateway() {
    let passt = job(&plan()).parts.remove(0);
    assert!(passt.args.contains(&"--no-map-gw".to_owned()));
    for ports in ["--tcp-ports", "--udp-ports"] {
        assert!(passt.args.windows(2).any(|two| two == [ports, "none"]), "{ports}");
    }
}

#[test]
fn a_program_of_a_persons_own_is_shown_without_its_neighbours() {
    let shown = |plan: &LaunchPlan| {
        let job = job(plan);
        job.room.into_iter().map(|bind| (bind.source, bind.at)).collect::<Vec<_>>()
    };
    let same = |path: &str| (PathBuf::from(path), PathBuf::from(path));
    let own = ("/data/web/machine".into(), OWN.into());
    let ordinary = [same("/usr"), same("/home/me/.cargo/bin/virtiofsd"), own];
    assert_eq!(shown(&plan()), ordinary);
    // The id that root's sandboxes run as cannot go there, so it is brought.
    let root = LaunchPlan { caller: crate::isolation::Caller::Root { runs_as: 9 }, ..plan() };
    let brought = shown(&root);
    assert_eq!(brought[1].1, Path::new("/home/me/.cargo/bin/virtiofsd"));
    assert!(brought[1].0.starts_with("/tmp") && brought[2].0.starts_with("/tmp"), "{brought:?}");
}

#[test]
fn the_processor_is_the_hosts_where_it_can_be() {
    let cpu = |processor| {
        let machine = job(&with(|machine| machine.processor = processor)).parts.pop().unwrap();
        let place = machine.args.iter().position(|arg| arg == "-cpu").unwrap();
        (machine.args[place - 1].clone(), machine.args[place + 1].clone())
    };
    let two = |accel: &str, cpu: &str| (accel.to_owned(), cpu.to_owned());
    assert_eq!(cpu(Processor::Kvm { without: None, nested: Some("vmx") }), two("kvm", "host"));
    assert_eq!(cpu(Processor::Kvm { without: Some("vmx"), nested: None }), two("kvm", "host,-vmx"));
    let device = PathBuf::from("/dev/kvm");
    let kvm = job(&with(|machine| machine.processor = Processor::Kvm { without: None, nested: None }));
    assert!(kvm.devices.contains(&device) && !job(&plan()).devices.contains(&device));
}
