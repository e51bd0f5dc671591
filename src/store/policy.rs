//! What the policy asks for at this moment: the threshold, the price, the room, and whether a round is due.

use super::Inner;
use crate::config::Policy;
use crate::sync::Ordering;

/// Factor of the price of a chunk at a round that growth waited for, and the most it can be.
const PRICE_RISE: f32 = 1.3;
const PRICE_MAX: f32 = 16.0;
/// Rounds in a period when growth always waits for one.
const PRESSED_ROUNDS: f32 = 16.0;
/// Factor of the room that a round leaves when it had to wait, and the most it can be.
const BREADTH_STEP: f32 = 2.0;
const BREADTH_MAX: f32 = 5.0;

impl Inner {
    pub(super) fn threshold(&self) -> f32 {
        f32::from_bits(self.threshold.load(Ordering::Relaxed))
    }

    pub(super) fn set_threshold(&self, threshold: f32) {
        self.threshold.store(threshold.to_bits(), Ordering::Relaxed);
    }

    /// The importance that earns a missing chunk; 0 while everything has room.
    pub(super) fn growth_threshold(&self) -> f32 {
        match &self.config.policy {
            Policy::None => 0.0,
            Policy::Fiited(_) => self.threshold() * f32::from_bits(self.price.load(Ordering::Relaxed)),
        }
    }

    /// The price of a chunk rises with every round that more was earned than there was room for, and falls with every
    /// step, so that what is grown is what matters most and not what came first. Where more is always earned than there
    /// is room for, the two meet at [`PRESSED_ROUNDS`] in a period.
    pub(super) fn move_price(&self, pressed: bool) {
        let Policy::Fiited(policy) = &self.config.policy else { return };
        let floor = 1.0 + policy.hysteresis;
        let price = f32::from_bits(self.price.load(Ordering::Relaxed));
        let factor = if pressed { PRICE_RISE } else { PRICE_RISE.powf(-PRESSED_ROUNDS / policy.period_steps as f32) };
        let price = (price * factor).clamp(floor, floor.max(PRICE_MAX));
        self.price.store(price.to_bits(), Ordering::Relaxed);
    }

    /// A round came when it was asked for, or had to wait for the rest after the last one; then rounds take more at a
    /// time, so that growth is refused less between them.
    pub(super) fn move_breadth(&self, waited: bool) {
        let breadth = f32::from_bits(self.breadth.load(Ordering::Relaxed));
        let breadth = if waited { breadth * BREADTH_STEP } else { breadth / BREADTH_STEP };
        self.breadth.store(breadth.clamp(1.0, BREADTH_MAX).to_bits(), Ordering::Relaxed);
    }

    /// Bytes that a round leaves free. Never more than a fifth of the budget for rounds having waited.
    pub(super) fn headroom_bytes(&self) -> u64 {
        let Policy::Fiited(policy) = &self.config.policy else { return 0 };
        let breadth = f32::from_bits(self.breadth.load(Ordering::Relaxed));
        let part = (policy.headroom * breadth).min(policy.headroom.max(0.2));
        (self.budget.limit() as f64 * f64::from(part)) as u64
    }

    pub(super) fn round_share(&self) -> f32 {
        match &self.config.policy {
            Policy::None => 1.0,
            Policy::Fiited(policy) => policy.round_share,
        }
    }

    /// Whether the policy asks for a round after this step: by its period, or sooner because growth was refused.
    pub(super) fn round_is_due(&self) -> bool {
        let Policy::Fiited(policy) = &self.config.policy else { return false };
        let since = self.clock.since_round();
        let aged = since >= policy.period_steps || self.clock.is_old();
        let regular = aged && self.clock.steps() >= policy.warmup_steps;
        let pressed = self.pressure.load(Ordering::Relaxed) && since >= (policy.period_steps / 64).max(1);
        regular || pressed
    }
}
