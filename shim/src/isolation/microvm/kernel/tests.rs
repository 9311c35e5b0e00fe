use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;
use crate::isolation::microvm::image::image_of;
use crate::isolation::microvm::needs::ALWAYS;
use crate::sandbox::testing::TempDir;

const VERSION: &str = "6.1.0-28-cloud-amd64";

const LISTS: &str = "\
kernel/drivers/virtio/virtio.ko:
kernel/drivers/virtio/virtio_pci.ko: kernel/drivers/virtio/virtio.ko
kernel/fs/fuse/virtiofs.ko: kernel/drivers/virtio/virtio.ko
";

struct Scene(TempDir);

impl Scene {
    fn new() -> Scene {
        Scene(TempDir::new())
    }

    fn root(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, path: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    /// A kernel as a distribution installs it.
    fn kernel(&self, below: &str, version: &str) -> PathBuf {
        self.write(&format!("{below}lib/modules/{version}/modules.dep"), LISTS);
        self.write(&format!("{below}boot/vmlinuz-{version}"), image_of(version))
    }

    fn found(&self, wish: Option<&Path>) -> Result<Kernel, KernelError> {
        find(wish, self.root())
    }
}

#[test]
fn the_newest_of_boot_is_taken_by_number() {
    let scene = Scene::new();
    for version in ["6.9.1-1-amd64", "6.10.0-1-amd64", "5.10.0-30-amd64"] {
        scene.kernel("", version);
    }
    // Removed packages leave images or modules now and then.
    scene.write("boot/vmlinuz-6.12.0", image_of("6.12.0"));
    let kernel = scene.found(None).unwrap();
    assert_eq!(kernel.version, "6.10.0-1-amd64");
    assert_eq!(kernel.modules, Some(scene.root().join("lib/modules/6.10.0-1-amd64")));
}

#[test]
fn a_nixos_comes_before_boot() {
    let scene = Scene::new();
    scene.kernel("", "6.1.0");
    let image = scene.write("store/linux/bzImage", image_of("6.6.5"));
    scene.write("store/modules/lib/modules/6.6.5/modules.dep", LISTS);
    let booted = scene.root().join("run/booted-system");
    fs::create_dir_all(&booted).unwrap();
    symlink(&image, booted.join("kernel")).unwrap();
    symlink(scene.root().join("store/modules"), booted.join("kernel-modules")).unwrap();
    let kernel = scene.found(None).unwrap();
    assert_eq!(kernel.version, "6.6.5");
    assert_eq!(kernel.modules, Some(booted.join("kernel-modules/lib/modules/6.6.5")));
}

#[test]
fn a_wish_is_an_image_or_a_folder() {
    let scene = Scene::new();
    let image = scene.kernel("unpacked/", VERSION);
    let config = scene.write(&format!("unpacked/boot/config-{VERSION}"), "");
    for wish in [&image, &scene.root().join("unpacked"), &scene.root().join("unpacked/boot")] {
        let kernel = scene.found(Some(wish)).unwrap();
        assert_eq!(kernel.version, VERSION);
        assert_eq!(kernel.modules, Some(scene.root().join("unpacked/lib/modules").join(VERSION)), "{wish:?}");
        assert_eq!(kernel.config.as_ref(), Some(&config));
    }
    // As Fedora and Arch have it.
    let image = scene.write("usr/lib/modules/6.12.1/vmlinuz", image_of("6.12.1"));
    scene.write("usr/lib/modules/6.12.1/modules.dep", LISTS);
    assert_eq!(scene.found(Some(&image)).unwrap().modules, image.parent().map(Path::to_owned));
}

#[test]
fn nothing_stands_in_for_a_wish() {
    let scene = Scene::new();
    scene.kernel("", VERSION);
    let other = scene.write("notes.txt", "no kernel");
    let empty = scene.root().join("empty");
    fs::create_dir(&empty).unwrap();
    let said = |wish: &Path| scene.found(Some(wish)).unwrap_err();
    assert!(matches!(said(&other), KernelError::NotOne { path, .. } if path == other));
    assert!(matches!(said(&empty), KernelError::NotInFolder { .. }));
    assert!(matches!(said(Path::new("/dev/null")), KernelError::Unreadable { .. }));
    let gone = said(&scene.root().join("gone"));
    assert!(
        matches!(&gone, KernelError::Unreadable { source, .. } if source.kind() == io::ErrorKind::NotFound)
    );
}

#[test]
fn nothing_anywhere_says_where_was_looked() {
    let scene = Scene::new();
    let error = scene.found(None).unwrap_err();
    assert!(matches!(error, KernelError::NotFound { .. }));
    assert!(error.to_string().contains("boot/vmlinuz-*"), "{error}");
    assert_eq!(error.requirement(), Requirement::MachineKernelMissing);
}

#[test]
fn an_image_for_root_alone_says_what_to_do() {
    let scene = Scene::new();
    let image = scene.kernel("", VERSION);
    fs::set_permissions(&image, fs::Permissions::from_mode(0o600)).unwrap();
    // Root reads it all the same, so the error is made as an ordinary user gets it.
    let error = KernelError::Unreadable { path: image, source: io::ErrorKind::PermissionDenied.into() };
    assert_eq!(error.requirement(), Requirement::MachineKernelUnreadable);
}

#[test]
fn an_image_without_its_modules_needs_a_configuration() {
    let scene = Scene::new();
    let image = scene.write(&format!("boot/vmlinuz-{VERSION}"), image_of(VERSION));
    let error = scene.found(Some(&image)).unwrap_err();
    assert!(matches!(error, KernelError::NoModules { .. }), "{error}");
    assert!(error.to_string().contains(&format!("lib/modules/{VERSION}")), "{error}");

    scene.write(&format!("boot/config-{VERSION}"), "CONFIG_VIRTIO_PCI=y\nCONFIG_VIRTIO_NET=m\n");
    let kernel = scene.found(Some(&image)).unwrap();
    assert_eq!(kernel.modules_for(&[Need::VirtioPci]).unwrap(), []);
    let error = kernel.modules_for(&[Need::VirtioPci, Need::Net]).unwrap_err();
    assert!(matches!(error, KernelError::Lacks { need: Need::Net, .. }), "{error}");
}

#[test]
fn what_it_lacks_is_named_with_its_option() {
    let scene = Scene::new();
    scene.kernel("", VERSION);
    let kernel = scene.found(None).unwrap();
    let error = kernel.modules_for(&[Need::VirtioPci, Need::Vsock]).unwrap_err();
    assert_eq!(error.to_string(), format!("the kernel {VERSION} has no vsock (CONFIG_VIRTIO_VSOCKETS)"));
    let inventory = kernel.inventory().unwrap();
    assert!(inventory.lack(Need::Virtiofs).is_none());
    let modules = inventory.modules_for(&[Need::Virtiofs], &[Need::Rng, Need::VirtioPci]).unwrap();
    let names = modules.iter().map(|module| module.name.as_str()).collect::<Vec<_>>();
    assert_eq!(names, ["virtio", "virtiofs", "virtio_pci"], "what is only wanted and not there is left out");
    assert_eq!(modules[0].path_inside(), "/modules/virtio.ko");
}

#[test]
fn a_file_that_another_package_has_is_told_apart() {
    let scene = Scene::new();
    scene.kernel("", VERSION);
    scene.write(
        &format!("boot/config-{VERSION}"),
        "CONFIG_NET_9P_VIRTIO=m\n# CONFIG_SECCOMP_FILTER is not set\n",
    );
    let kernel = scene.found(None).unwrap();
    let inventory = kernel.inventory().unwrap();
    let lack = inventory.lack(Need::Plan9).unwrap();
    assert!(lack.to_string().contains("`9pnet_virtio` is not in"), "{lack}");
    assert_eq!(lack.requirement(), Requirement::MachineKernelLacks);
    let lack = inventory.lack(Need::Seccomp).unwrap();
    assert!(lack.to_string().ends_with("(CONFIG_SECCOMP_FILTER)"), "{lack}");
}

#[test]
fn without_a_configuration_what_is_always_built_in_is_believed() {
    let scene = Scene::new();
    scene.kernel("", VERSION);
    scene.write(&format!("lib/modules/{VERSION}/modules.builtin"), "kernel/net/unix/unix.ko\n");
    let kernel = scene.found(None).unwrap();
    let inventory = kernel.inventory().unwrap();
    let lacking = ALWAYS.iter().copied().filter(|need| inventory.lack(*need).is_some()).collect::<Vec<_>>();
    assert_eq!(lacking, [Need::Vsock]);
}

/// Folders as `dpkg -x` makes them, where somebody has some: separated by `:`.
#[test]
fn real_kernels_have_what_a_machine_needs() {
    let Some(folders) = std::env::var_os("AGENT_TESTS_KERNELS") else {
        eprintln!("skipped: AGENT_TESTS_KERNELS names no folders of kernels");
        return;
    };
    for folder in std::env::split_paths(&folders) {
        let kernel = find(Some(&folder), Path::new("/")).unwrap();
        let inventory = kernel.inventory().unwrap();
        let wants = [Need::Virtiofs, Need::Plan9, Need::Net, Need::Rng, Need::Cgroups];
        let started = std::time::Instant::now();
        let modules = inventory.modules_for(ALWAYS, &wants).unwrap();
        let took = started.elapsed();
        eprintln!(
            "{}: {took:?} {:#?}",
            kernel.version,
            modules.iter().map(|module| &module.name).collect::<Vec<_>>()
        );
        for wanted in wants {
            if let Some(lack) = inventory.lack(wanted) {
                eprintln!("{lack}");
            }
        }
        let place = |name: &str| modules.iter().position(|module| module.name == name).unwrap();
        assert!(place("virtio") < place("virtio_pci") && place("virtio_ring") < place("virtio_pci"));
        assert!(place("vsock") < place("vmw_vsock_virtio_transport"));
        assert!(place("fuse") < place("virtiofs"));
    }
}
