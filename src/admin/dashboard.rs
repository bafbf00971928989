//! The dashboard: one page without anything from elsewhere. It reads `/metrics`, `/clusters`, `/connections` and `/hot_keys`.

/// The page.
pub(super) const PAGE: &str = include_str!("dashboard.html");
