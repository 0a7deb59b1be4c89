//! What the host must have: a place for pins, privileges, an interface.

use super::*;
use anyhow::bail;
use proxy_userspace::kernel::features;

#[test]
fn a_pin_directory_in_use_names_its_user() {
    in_netns("lock", |place| {
        let _plane = place.open()?;
        match DataPlane::open(&place.l4(), 0) {
            Err(error @ LoadError::Locked { .. }) => {
                let pid = std::process::id().to_string();
                ensure!(error.to_string().contains(&pid), "{error}");
            }
            Err(error) => bail!("{error:?}"),
            Ok(_) => bail!("opened twice"),
        }
        Ok(())
    });
}

#[test]
fn a_bpffs_is_mounted_on_an_empty_directory_and_on_no_other() {
    use nix::mount::{MsFlags, mount};
    in_netns("bpffs", |place| {
        // The mounts of this test vanish with its thread.
        unshare(CloneFlags::CLONE_NEWNS)?;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
        let directory = tempfile::tempdir()?;
        let mut l4 = place.l4();
        l4.pin_dir = directory.path().join("pins");
        drop(DataPlane::open(&l4, 0)?);
        ensure!(l4.pin_dir.join("next/settings").exists());

        let other = tempfile::tempdir()?;
        std::fs::write(other.path().join("precious"), "")?;
        l4.pin_dir = other.path().to_owned();
        match DataPlane::open(&l4, 0) {
            Err(error @ LoadError::NotBpffs(_)) => {
                ensure!(error.to_string().contains("/sys/fs/bpf"), "{error}");
            }
            Err(error) => bail!("{error:?}"),
            Ok(_) => bail!("mounted over files"),
        }
        nix::mount::umount(&directory.path().join("pins"))?;
        Ok(())
    });
}

#[test]
fn missing_capabilities_are_named() {
    in_netns("caps", |place| {
        #[repr(C)]
        struct Header {
            version: u32,
            pid: i32,
        }
        /// `_LINUX_CAPABILITY_VERSION_3`.
        const VERSION: u32 = 0x2008_0522;
        let header = Header {
            version: VERSION,
            pid: 0,
        };
        let none = [0u32; 6];
        // SAFETY: both pointers are to live values of the kernel's layout. Only this thread loses
        // its capabilities.
        let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, &raw const none) };
        ensure!(result == 0, "capset");
        match DataPlane::open(&place.l4(), 0) {
            Err(error @ LoadError::NoPrivilege { .. }) => {
                ensure!(error.to_string().contains("CAP_BPF"), "{error}");
            }
            Err(error) => bail!("{error:?}"),
            Ok(_) => bail!("opened"),
        }
        Ok(())
    });
}

#[test]
fn the_check_of_this_host_finds_nothing_fatal() {
    in_netns("check", |place| {
        let mut l4 = place.l4();
        l4.interfaces = vec![on("lb0", AttachMode::Auto), on("nosuch", AttachMode::Auto)];
        let findings = features::check(&l4, &[]);
        for finding in &findings {
            eprintln!("{finding:?}");
        }
        let failed: Vec<_> = findings
            .iter()
            .filter(|finding| finding.status == features::Status::Fail)
            .map(|finding| finding.name.as_str())
            .collect();
        ensure!(failed == ["interface nosuch"], "{failed:?}");
        let native = findings.iter().find(|finding| finding.name == "xdp on lb0");
        ensure!(native.is_some_and(|finding| finding.detail == "native XDP works"));
        ensure!(xdp_on("lb0")?.is_none(), "the probe must leave nothing");

        let about_veth = |findings: &[features::Finding]| {
            let names = findings.iter().map(|finding| finding.name.clone());
            names
                .filter(|name| name.starts_with("checksums") || name.starts_with("peer"))
                .count()
        };
        ensure!(about_veth(&findings) == 2);
        let ethtool = Command::new("ethtool")
            .args(["-K", "lb1", "gro", "on", "tx", "off"])
            .stdout(std::process::Stdio::null())
            .status();
        if ethtool.is_ok_and(|status| status.success()) {
            // Finished checksums are one thing; the peer still has no program of its own.
            ensure!(about_veth(&features::check(&l4, &[])) == 1);
        }
        Ok(())
    });
}
