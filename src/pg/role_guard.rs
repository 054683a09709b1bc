//! Another role's rights for a while.
#![allow(unsafe_code, reason = "the only way to call Postgres")]

use pgrx::pg_sys;

/// The session's role and settings, put back when dropped.
pub struct RoleGuard {
    role: pg_sys::Oid,
    security_context: i32,
    guc_level: i32,
}

impl RoleGuard {
    /// Switches to a role, in a security-restricted operation and with a level of settings of its own.
    pub fn enter(role: pg_sys::Oid) -> Self {
        let mut scope = Self { role: pg_sys::InvalidOid, security_context: 0, guc_level: 0 };
        // SAFETY: both pointers are valid for the call.
        unsafe { pg_sys::GetUserIdAndSecContext(&mut scope.role, &mut scope.security_context) };
        let restricted = scope.security_context
            | pg_sys::SECURITY_LOCAL_USERID_CHANGE as i32
            | pg_sys::SECURITY_RESTRICTED_OPERATION as i32;
        // SAFETY: undone by `drop`, or by the abort of the (sub)transaction when an error passes.
        unsafe { pg_sys::SetUserIdAndSecContext(role, restricted) };
        // SAFETY: closed by `drop`, or by the abort.
        scope.guc_level = unsafe { pg_sys::NewGUCNestLevel() };
        scope
    }
}

impl Drop for RoleGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The abort of the (sub)transaction restores both, also after a panic of Rust, which `subtransaction` and
            // `transaction` treat as an error. While one unwinds, Postgres must not be called.
            return;
        }
        // SAFETY: the level that `enter` opened, and the scopes nest.
        unsafe { pg_sys::AtEOXact_GUC(false, self.guc_level) };
        // SAFETY: the values that `enter` found.
        unsafe { pg_sys::SetUserIdAndSecContext(self.role, self.security_context) };
    }
}
