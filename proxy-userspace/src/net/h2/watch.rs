//! What the other end of a connection does, in numbers.

/// Octets of sent content for which the other end may give us one WINDOW_UPDATE that is not
/// counted. Honest ones give them for some thousands.
const CONTENT_PER_UPDATE: u32 = 256;

/// Counts since the connection began. They wrap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watch {
    /// Streams that the other end has reset.
    pub resets: u32,
    /// Streams that we have reset because of what the other end did.
    pub faults: u32,
    /// Those that were malformed, among them.
    pub malformed: u32,
    /// Frames of the other end that move nothing: PING, SETTINGS, PRIORITY, empty DATA, unknown
    /// ones, and WINDOW_UPDATE beyond what our content explains.
    pub idle_frames: u32,
    /// HEADERS and DATA of the other end.
    pub live_frames: u32,
    /// Answers to our PING.
    pub pongs: u32,
    /// WINDOW_UPDATEs that our content explains, in octets.
    credit: u32,
}

impl Watch {
    pub(super) fn note_idle(&mut self) {
        self.idle_frames = self.idle_frames.wrapping_add(1);
    }

    pub(super) fn note_live(&mut self) {
        self.live_frames = self.live_frames.wrapping_add(1);
    }

    pub(super) fn note_window_update(&mut self) {
        match self.credit.checked_sub(CONTENT_PER_UPDATE) {
            Some(left) => self.credit = left,
            None => self.note_idle(),
        }
    }

    pub(super) fn note_sent(&mut self, octets: usize) {
        self.credit = self.credit.saturating_add(octets as u32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_updates_are_free_as_far_as_content_explains_them() {
        let mut watch = Watch::default();
        watch.note_sent(2 * CONTENT_PER_UPDATE as usize);
        for _ in 0..3 {
            watch.note_window_update();
        }
        assert_eq!(watch.idle_frames, 1);
    }
}
