//! Whether octets fit the transport that they are meant for. State: the length of the line under way.

use super::Form;

/// Octets of a line without its end (RFC 5321 section 4.5.3.1.6).
pub(super) const LINE_SIZE_MAX: usize = 998;

/// Follows the octets of one body.
#[derive(Clone, Copy, Debug)]
pub(super) struct Check {
    form: Form,
    line: usize,
    fits: bool,
}

impl Check {
    pub(super) fn new(form: Form) -> Self {
        Self { form, line: 0, fits: true }
    }

    /// Octets without line ends: a CR or LF here is a bare one.
    pub(super) fn push(&mut self, octets: &[u8]) {
        self.line += octets.len();
        self.fits &= self.line <= LINE_SIZE_MAX && octets.iter().all(|octet| self.form.takes(*octet));
    }

    pub(super) fn line_end(&mut self) {
        self.line = 0;
    }

    pub(super) fn fits(&self) -> bool {
        self.fits
    }
}
