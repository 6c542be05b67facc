//! How much may pass through each interface of a pod: annotations of its first container.
//!
//! | annotation                                                       | means                                       |
//! |------------------------------------------------------------------|---------------------------------------------|
//! | `dev.crx.net.rx-bytes-per-second`, `dev.crx.net.tx-bytes-per-second` | bytes towards the pod, and from it      |
//! | `dev.crx.net.rx-packets-per-second`, `dev.crx.net.tx-packets-per-second` | packets, likewise; a large one that is cut into segments later counts once |
//! | `kubernetes.io/ingress-bandwidth`, `kubernetes.io/egress-bandwidth` | bits in a second towards the pod, and from it, as `10M` or `1Gi`; those above count before them |

use std::num::NonZeroU64;

use anyhow::Context;
use crx_virtio::net::{Limits, Rate};
use serde::{Deserialize, Serialize};

use crate::runtime::channel::Annotations;

/// The annotations, in the order of the table above.
pub(crate) const ANNOTATIONS: [&str; 6] = [RX_BYTES, TX_BYTES, RX_PACKETS, TX_PACKETS, INGRESS, EGRESS];
const RX_BYTES: &str = "dev.crx.net.rx-bytes-per-second";
const TX_BYTES: &str = "dev.crx.net.tx-bytes-per-second";
const RX_PACKETS: &str = "dev.crx.net.rx-packets-per-second";
const TX_PACKETS: &str = "dev.crx.net.tx-packets-per-second";
const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
const EGRESS: &str = "kubernetes.io/egress-bandwidth";

/// What may come at once after a pause: what comes in a tenth of a second, and at least a few of the largest packets.
const BURSTS_PER_SECOND: u64 = 10;
const LEAST_BURST_BYTES: u64 = 256 << 10;
const LEAST_BURST_PACKETS: u64 = 64;

/// Limits in a second; none for no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rates {
    rx_bytes: Option<NonZeroU64>,
    tx_bytes: Option<NonZeroU64>,
    rx_packets: Option<NonZeroU64>,
    tx_packets: Option<NonZeroU64>,
}

impl Rates {
    /// Reads the annotations.
    ///
    /// # Errors
    /// One is no number, or 0.
    pub(crate) fn new(annotations: &Annotations) -> anyhow::Result<Self> {
        let number = |name: &str| read(annotations, name, |text| text.parse().ok());
        // Bits to bytes; less than one is one.
        let bandwidth = |name: &str| {
            let bits = read(annotations, name, quantity)?;
            Ok::<_, anyhow::Error>(
                bits.map(|bits| NonZeroU64::new(bits.get() / 8).unwrap_or(NonZeroU64::MIN)),
            )
        };
        let (ingress, egress) = (bandwidth(INGRESS)?, bandwidth(EGRESS)?);
        Ok(Self {
            rx_bytes: number(RX_BYTES)?.or(ingress),
            tx_bytes: number(TX_BYTES)?.or(egress),
            rx_packets: number(RX_PACKETS)?,
            tx_packets: number(TX_PACKETS)?,
        })
    }

    /// As a network device has them.
    pub(crate) fn limits(self) -> Limits {
        let rate = |per_second: Option<NonZeroU64>, least: u64| {
            per_second.map(|per_second| Rate {
                per_second,
                burst: (per_second.get() / BURSTS_PER_SECOND).max(least),
            })
        };
        Limits {
            rx_bytes: rate(self.rx_bytes, LEAST_BURST_BYTES),
            rx_frames: rate(self.rx_packets, LEAST_BURST_PACKETS),
            tx_bytes: rate(self.tx_bytes, LEAST_BURST_BYTES),
            tx_frames: rate(self.tx_packets, LEAST_BURST_PACKETS),
        }
    }
}

fn read(
    annotations: &Annotations,
    name: &str,
    parse: impl Fn(&str) -> Option<u64>,
) -> anyhow::Result<Option<NonZeroU64>> {
    let Some(text) = annotations.get(name) else { return Ok(None) };
    let number = parse(text.trim()).and_then(NonZeroU64::new);
    Ok(Some(number.with_context(|| format!("annotations: {name}: {text:?} is no whole number above 0"))?))
}

/// A whole number with the suffixes of Kubernetes: `10M`, `1Gi`.
fn quantity(text: &str) -> Option<u64> {
    const SUFFIXES: [(&str, u64); 8] = [
        ("Ki", 1 << 10),
        ("Mi", 1 << 20),
        ("Gi", 1 << 30),
        ("Ti", 1 << 40),
        ("k", 1000),
        ("M", 1_000_000),
        ("G", 1_000_000_000),
        ("T", 1_000_000_000_000),
    ];
    let found = SUFFIXES.iter().find_map(|(suffix, times)| Some((text.strip_suffix(suffix)?, *times)));
    let (digits, times) = found.unwrap_or((text, 1));
    digits.parse::<u64>().ok()?.checked_mul(times)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Annotations {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn rate(per_second: u64, burst: u64) -> Option<Rate> {
        Some(Rate { per_second: NonZeroU64::new(per_second).unwrap(), burst })
    }

    #[test]
    fn without_annotations_there_are_no_limits() {
        assert_eq!(Rates::new(&of(&[])).unwrap().limits(), Limits::default());
    }

    #[test]
    fn each_direction_has_its_own_limits() {
        let annotations = of(&[
            ("dev.crx.net.rx-bytes-per-second", "100000000"),
            ("dev.crx.net.tx-bytes-per-second", "1000"),
            ("dev.crx.net.rx-packets-per-second", "5000"),
            ("dev.crx.net.tx-packets-per-second", "10"),
        ]);
        let limits = Rates::new(&annotations).unwrap().limits();
        assert_eq!(limits.rx_bytes, rate(100_000_000, 10_000_000));
        assert_eq!(limits.tx_bytes, rate(1000, 256 << 10));
        assert_eq!(limits.rx_frames, rate(5000, 500));
        assert_eq!(limits.tx_frames, rate(10, 64));
    }

    #[test]
    fn bandwidths_of_kubernetes_are_bits_and_the_own_annotations_count_before_them() {
        let both = [("kubernetes.io/ingress-bandwidth", "10M"), ("kubernetes.io/egress-bandwidth", "1Gi")];
        let rates = Rates::new(&of(&both)).unwrap();
        assert_eq!((rates.rx_bytes, rates.tx_bytes), (NonZeroU64::new(1_250_000), NonZeroU64::new(1 << 27)));
        assert_eq!((rates.rx_packets, rates.tx_packets), (None, None));
        let own = [both[0], ("dev.crx.net.rx-bytes-per-second", "7")];
        assert_eq!(Rates::new(&of(&own)).unwrap().rx_bytes, NonZeroU64::new(7));
        assert_eq!(quantity("3k"), Some(3000));
        assert_eq!(quantity("1"), Some(1));
    }

    #[test]
    fn what_is_no_rate_is_named() {
        for (name, value) in [
            ("dev.crx.net.tx-packets-per-second", "0"),
            ("dev.crx.net.rx-bytes-per-second", "10M"),
            ("kubernetes.io/egress-bandwidth", "1.5M"),
            ("kubernetes.io/ingress-bandwidth", "99999999999T"),
        ] {
            let error = Rates::new(&of(&[(name, value)])).unwrap_err().to_string();
            assert_eq!(error, format!("annotations: {name}: {value:?} is no whole number above 0"));
        }
    }
}
