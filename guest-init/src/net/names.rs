//! The order in which network devices get their names. No two may have one name at any time, so a swap takes a detour.

/// The renames, in their order: the number of the device, and its next name. `names`: of each device, the number of its
/// window, the name that it has and the one that it is to have; the latter differ from each other.
pub(crate) fn renames(names: &[(u8, &str, &str)]) -> Vec<(usize, String)> {
    let mut current: Vec<String> = names.iter().map(|(_, name, _)| (*name).to_owned()).collect();
    let mut renames = Vec::new();
    for (number, (_, _, wanted)) in names.iter().enumerate() {
        if current[number] == *wanted {
            continue;
        }
        if let Some(holder) = current.iter().position(|name| name == wanted) {
            current[holder] = format!("crx-nic{}", names[holder].0);
            renames.push((holder, current[holder].clone()));
        }
        current[number] = (*wanted).to_owned();
        renames.push((number, current[number].clone()));
    }
    renames
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of the names; every step is checked.
    fn renamed(names: &[(u8, &str, &str)]) -> (usize, Vec<String>) {
        let mut current: Vec<String> = names.iter().map(|(_, name, _)| (*name).to_owned()).collect();
        let renames = renames(names);
        for (number, name) in &renames {
            assert!(!current.contains(name), "{renames:?}");
            current[*number].clone_from(name);
        }
        (renames.len(), current)
    }

    #[test]
    fn every_device_gets_its_name_without_two_having_one() {
        assert_eq!(renamed(&[(3, "eth0", "eth0")]), (0, vec!["eth0".to_owned()]));
        assert_eq!(renamed(&[(3, "eth0", "net1"), (4, "eth1", "eth0")]).0, 2);
        let swapped = renamed(&[(3, "eth0", "eth1"), (4, "eth1", "eth0")]);
        assert_eq!(swapped, (3, vec!["eth1".to_owned(), "eth0".to_owned()]));
        let round = renamed(&[(3, "a", "b"), (4, "b", "c"), (5, "c", "a")]);
        assert_eq!(round.1, ["b", "c", "a"]);
    }
}
