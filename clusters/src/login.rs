//! Who mecha is to a cluster's servers: said by the control side, read for each new connection.
//!
//! A changed password concerns connections that are made from then on. Those that there are have logged in already, and
//! servers let them be; so a change costs no client anything.

use std::sync::Arc;

use mecha_core::Login;
use tokio::sync::watch;

/// The side that says it.
#[derive(Clone)]
pub struct LoginSource(Arc<watch::Sender<Login>>);

/// The side that reads it.
#[derive(Clone)]
pub struct CurrentLogin(watch::Receiver<Login>);

impl LoginSource {
    /// This one for now.
    pub fn new(login: Login) -> Self {
        Self(Arc::new(watch::Sender::new(login)))
    }

    /// This one for connections that are made from now on.
    pub fn change(&self, login: Login) {
        self.0.send_replace(login);
    }

    /// What is said now and later.
    pub fn current(&self) -> CurrentLogin {
        CurrentLogin(self.0.subscribe())
    }
}

impl CurrentLogin {
    /// Lets `read` see it. Not for the hot path: once for a connection.
    pub fn with<R>(&self, read: impl FnOnce(&Login) -> R) -> R {
        read(&self.0.borrow())
    }
}

impl Default for CurrentLogin {
    fn default() -> Self {
        LoginSource::new(Login::default()).current()
    }
}
