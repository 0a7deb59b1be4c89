//! Interfaces: what is attached to them, by whom, and what is said of those that cannot be had.

use super::*;
use anyhow::bail;
use proxy_userspace::kernel::attach::AttachError;

#[test]
fn a_missing_interface_changes_nothing_and_lists_the_others() {
    in_netns("missing", |place| {
        let mut plane = running(place)?;
        let before = xdp_on("lb0")?;
        let both = [on("lb0", AttachMode::Auto), on("nosuch", AttachMode::Auto)];
        match plane.attach(&both) {
            Err(error @ AttachError::NoInterface { .. }) => {
                let text = error.to_string();
                ensure!(text.contains("nosuch") && text.contains("lb0"), "{text}");
            }
            other => bail!("{other:?}"),
        }
        ensure!(xdp_on("lb0")? == before);
        Ok(())
    });
}

#[test]
fn a_refusal_repeats_the_kernels_own_sentence() {
    in_netns("refused", |place| {
        // The loopback device's driver has no XDP.
        ip("link set lo up")?;
        let (mut plane, _) = place.open()?;
        apply(&plane)?;
        match plane.attach(&[on("lo", AttachMode::Native)]) {
            Err(error @ AttachError::Refused { .. }) => {
                let text = error.to_string();
                ensure!(text.contains("does not support XDP"), "{text}");
                ensure!(text.contains("attach: generic"), "{text}");
            }
            other => bail!("{other:?}"),
        }
        let attached = plane.attach(&[on("lo", AttachMode::Auto)])?;
        ensure!(attached[0].mode == XdpMode::Generic);
        Ok(())
    });
}

#[test]
fn an_interface_with_another_program_is_refused_by_name() {
    in_netns("occupied", |place| {
        let other = Place::new("occupied-other");
        let _other = running(&other)?;
        let (mut plane, _) = place.open()?;
        apply(&plane)?;
        let both = [on("lb1", AttachMode::Auto), on("lb0", AttachMode::Auto)];
        match plane.attach(&both) {
            Err(error @ AttachError::Occupied(_)) => {
                let text = error.to_string();
                ensure!(text.contains("sluice_balance"), "{text}");
                ensure!(text.contains("ip link set dev lb0"), "{text}");
            }
            other => bail!("{other:?}"),
        }
        ensure!(
            xdp_on("lb1")?.is_none(),
            "what was attached before must be undone"
        );
        Ok(())
    });
}

#[test]
fn modes_are_obeyed_and_can_be_changed() {
    in_netns("modes", |place| {
        let (mut plane, _) = place.open()?;
        apply(&plane)?;
        for (wanted, got) in [
            (AttachMode::Generic, XdpMode::Generic),
            (AttachMode::Auto, XdpMode::Generic),
            (AttachMode::Native, XdpMode::Native),
            (AttachMode::Auto, XdpMode::Native),
        ] {
            plane.attach(&[on("lb0", wanted)])?;
            let mode = xdp_on("lb0")?.map(|(mode, _)| mode);
            ensure!(mode == Some(got), "{wanted:?}: {mode:?}");
        }
        Ok(())
    });
}

#[test]
fn an_interface_that_is_not_configured_any_more_is_left_alone() {
    in_netns("unconfigured", |place| {
        let mut plane = running(place)?;
        plane.attach(&[on("lb1", AttachMode::Auto)])?;
        ensure!(xdp_on("lb0")?.is_none() && xdp_on("lb1")?.is_some());
        ensure!(Pins::new(&place.0).linked_interfaces()? == ["lb1"]);
        Ok(())
    });
}

#[test]
fn a_namesake_of_a_vanished_interface_gets_a_new_link() {
    in_netns("namesake", |place| {
        let mut plane = running(place)?;
        ip("link del lb0")?;
        ip("link add lb0 type veth peer name lb1")?;
        let attached = plane.attach(&[on("lb0", AttachMode::Auto)])?;
        ensure!(!attached[0].updated);
        ensure!(xdp_on("lb0")?.is_some());
        Ok(())
    });
}

#[test]
fn an_interface_with_a_dot_in_its_name_can_be_pinned() {
    in_netns("dot", |place| {
        // As VLAN devices have; bpffs refuses dots.
        ip("link add lb.100 type veth peer name other")?;
        let (mut plane, _) = place.open()?;
        apply(&plane)?;
        plane.attach(&[on("lb.100", AttachMode::Auto)])?;
        drop(plane);
        let (mut plane, adoption) = place.open()?;
        let interfaces = vec!["lb.100".to_owned()];
        ensure!(adoption == Adoption::Adopted { interfaces }, "{adoption:?}");
        ensure!(plane.attach(&[on("lb.100", AttachMode::Auto)])?[0].updated);
        Ok(())
    });
}

#[test]
fn detaching_leaves_nothing_behind() {
    in_netns("detach", |place| {
        running(place)?.detach_all(false)?;
        ensure!(xdp_on("lb0")?.is_none());
        ensure!(!place.0.exists());
        Ok(())
    });
}

#[test]
fn the_decapsulator_has_pins_of_its_own() {
    in_netns("decap", |place| {
        let sources = ["10.0.0.0/8".parse()?];
        let accepted = decap::settings(6080, &sources);
        let interfaces = [on("lb1", AttachMode::Auto)];
        let decapsulator = decap::Decap::attach(&place.0, &interfaces, &accepted)?;
        ensure!(xdp_on("lb1")?.is_some());
        let balancer = running(place)?;
        drop(decapsulator);
        let again = decap::Decap::attach(&place.0, &interfaces, &accepted)?;
        ensure!(again.attached[0].updated);
        again.detach()?;
        ensure!(xdp_on("lb1")?.is_none() && xdp_on("lb0")?.is_some());
        balancer.detach_all(false)?;
        Ok(())
    });
}
