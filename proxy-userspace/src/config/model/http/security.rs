//! Presets of response fields that tell browsers to be careful.

/// Fields that are added to responses which lack them: what a backend says itself stays.
///
/// None of them makes a browser refuse plain HTTP; that is for listeners with TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SecurityHeaders {
    /// None.
    #[default]
    Off,
    /// What does not break a page.
    Basic,
    /// For pages that load nothing from elsewhere and are framed by nobody.
    Strict,
    /// For programs that answer with data, not with pages.
    Api,
}

impl SecurityHeaders {
    /// Every preset.
    pub const ALL: [Self; 4] = [Self::Off, Self::Basic, Self::Strict, Self::Api];

    /// The word in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Basic => "basic",
            Self::Strict => "strict",
            Self::Api => "api",
        }
    }

    /// Names and values.
    pub const fn fields(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Off => &[],
            Self::Basic => &[
                ("X-Content-Type-Options", "nosniff"),
                ("X-Frame-Options", "SAMEORIGIN"),
                ("Referrer-Policy", "strict-origin-when-cross-origin"),
            ],
            Self::Strict => &[
                ("X-Content-Type-Options", "nosniff"),
                ("X-Frame-Options", "DENY"),
                ("Referrer-Policy", "no-referrer"),
                (
                    "Content-Security-Policy",
                    "default-src 'self'; base-uri 'none'; form-action 'self'; \
                     frame-ancestors 'none'; object-src 'none'",
                ),
                ("Cross-Origin-Opener-Policy", "same-origin"),
                ("Cross-Origin-Resource-Policy", "same-origin"),
                (
                    "Permissions-Policy",
                    "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
                ),
            ],
            Self::Api => &[
                ("X-Content-Type-Options", "nosniff"),
                ("X-Frame-Options", "DENY"),
                ("Referrer-Policy", "no-referrer"),
                (
                    "Content-Security-Policy",
                    "default-src 'none'; frame-ancestors 'none'",
                ),
                ("Cache-Control", "no-store"),
            ],
        }
    }
}
