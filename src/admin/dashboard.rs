//! The dashboard: one page without anything from elsewhere. It reads `/metrics`, `/clusters` and `/connections`.

/// The page.
pub(super) const PAGE: &str = include_str!("dashboard.html");
