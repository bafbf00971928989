//! Logins of clients, by the numbers that their connections are known by. No I/O.

use std::cell::RefCell;

use mecha_core::Login;

/// Logins at the same time: numbers from 1 on that leave room for a bit of the protocol's.
const MAX_GUESTS: usize = 127;
/// How long a number is nobody's before somebody else gets it: longer than any call waits to be sent.
const QUARANTINE_MICROS: u64 = 600_000_000;

/// One login.
struct Guest {
    login: Login,
    clients: usize,
    /// When the last client has left.
    left_micros: u64,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Guests(RefCell<Vec<Guest>>);

// === impl Guests ===

impl Guests {
    /// A client comes with this login: returns its number; `None` if there are too many.
    pub(crate) fn enter(&self, login: &Login, now_micros: u64) -> Option<u8> {
        let mut guests = self.0.borrow_mut();
        if let Some(at) = guests.iter().position(|guest| guest.login == *login) {
            guests.get_mut(at)?.clients += 1;
            return u8::try_from(at + 1).ok();
        }
        let fresh = Guest { login: login.clone(), clients: 1, left_micros: 0 };
        if guests.len() < MAX_GUESTS {
            guests.push(fresh);
            return u8::try_from(guests.len()).ok();
        }
        let is_free = |guest: &Guest| {
            guest.clients == 0 && now_micros.saturating_sub(guest.left_micros) > QUARANTINE_MICROS
        };
        let at = guests.iter().position(is_free)?;
        *guests.get_mut(at)? = fresh;
        u8::try_from(at + 1).ok()
    }

    /// A client with this login leaves. Returns whether it was the last.
    pub(crate) fn leave(&self, number: u8, now_micros: u64) -> bool {
        let mut guests = self.0.borrow_mut();
        let guest = usize::from(number).checked_sub(1).and_then(|at| guests.get_mut(at));
        let Some(guest) = guest.filter(|guest| guest.clients > 0) else { return false };
        guest.clients -= 1;
        guest.left_micros = now_micros;
        guest.clients == 0
    }

    /// Lets `read` see a login: the one of nobody, if nobody has ever had that number.
    pub(crate) fn with<R>(&self, number: u8, read: impl FnOnce(&Login) -> R) -> R {
        let guests = self.0.borrow();
        match usize::from(number).checked_sub(1).and_then(|at| guests.get(at)) {
            Some(guest) => read(&guest.login),
            None => read(&Login::default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(name: &str) -> Login {
        Login { username: Some(name.into()), password: Some("secret".into()), ..Login::default() }
    }

    #[test]
    fn clients_with_one_login_have_one_number() {
        let guests = Guests::default();
        let one = guests.enter(&login("a"), 0).unwrap();
        assert_eq!(guests.enter(&login("a"), 0), Some(one));
        assert_ne!(guests.enter(&login("b"), 0), Some(one));
        assert!(!guests.leave(one, 0) && guests.leave(one, 0) && !guests.leave(one, 0));
        assert_eq!(guests.with(one, |login| login.username.clone()), Some("a".into()));
        assert!(guests.with(0, Login::is_empty) && guests.with(99, Login::is_empty));
    }

    #[test]
    fn a_number_is_somebody_elses_only_when_no_call_of_its_last_owner_can_be_left() {
        let guests = Guests::default();
        for number in 0..MAX_GUESTS {
            assert!(guests.enter(&login(&number.to_string()), 0).is_some());
        }
        assert_eq!(guests.enter(&login("late"), 0), None);
        assert!(guests.leave(5, 1_000));
        assert_eq!(guests.enter(&login("late"), QUARANTINE_MICROS), None);
        assert_eq!(guests.enter(&login("late"), QUARANTINE_MICROS + 1_001), Some(5));
    }
}
