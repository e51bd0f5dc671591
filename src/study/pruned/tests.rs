//! What pruned tables keep, and what it costs.

use super::*;

const TRAINING: Training = Training { lr: 0.1, eps: 1e-8, seed: 3 };
const ROWS: Pruning = Pruning { unit: 4, whole: 0.0, period: 1, ..Pruning::ADAEMBED };

/// Room for `rows` rows beside all metadata of `ids` ids.
fn with_room(ids: usize, rows: u64, pruning: Pruning) -> Pruned {
    let memory = rows * (4 / pruning.unit) as u64 * (Rows::row_bytes(pruning.unit) + 4);
    let virtual_rows = ids as u64 * UNIT_BYTES * (4 / pruning.unit) as u64;
    let budget = Ranking::BYTES + 4 * (memory + virtual_rows);
    let mut made = Pruned::new(&[ids], 4, budget, TRAINING, pruning).unwrap();
    assert!(made.held().now <= budget);
    let rows = rows as usize * (4 / pruning.unit);
    made.memory = Rows::zeros(rows, pruning.unit, TRAINING);
    made.free = (0..rows as u32).rev().collect();
    made
}

fn dims(method: &Pruned, ids: usize) -> Vec<u16> {
    method.own_dims(0, ids)
}

#[test]
fn the_budget_is_met_and_used_whatever_the_ratio() {
    let sizes = [100, 50_000];
    let full = 50_100 * Rows::row_bytes(16);
    for (unit, part) in [(16, 2), (16, 5), (16, 20), (16, 100), (4, 5), (4, 20), (4, 100)] {
        let made = Pruned::new(&sizes, 16, full / part, TRAINING, Pruning { unit, ..ROWS }).unwrap();
        let arrays: usize = made.tables.iter().map(|t| t.scores.capacity() + t.addresses.capacity()).sum();
        let allocated = arrays * 4 + made.free.capacity() * 4 + made.ranking_bytes();
        assert_eq!(made.held().now, made.memory.bytes() + allocated as u64);
        assert!(made.held().now <= full / part && made.held().now * 100 > full / part * 98);
    }
}

impl Pruned {
    fn ranking_bytes(&self) -> usize {
        Ranking::BYTES as usize
    }
}

#[test]
fn frequency_times_gradient_keeps_what_is_both() {
    let often_weak = (0u32, 4, 0.3f32); // 4 accesses: summed gradient 1.2, times 4
    let rare_strong = (1u32, 1, 2.0f32);
    let rare_weak = (2u32, 1, 0.1f32);
    for (score, kept) in [(Score::FrequencyGradient, 0), (Score::Frequency, 0), (Score::Gradient, 1)] {
        let mut method = with_room(3, 1, Pruning { score, ..ROWS });
        for (id, count, size) in [rare_weak, often_weak, rare_strong] {
            let gradients = vec![size; count * 4];
            method.train(0, &vec![id; count], &gradients).unwrap();
        }
        assert_eq!(dims(&method, 3), [0, 0, 4], "who came first has the memory");
        method.end_step().unwrap();
        let mut wanted = [0; 3];
        wanted[kept] = 4;
        assert_eq!(dims(&method, 3), wanted, "{score:?}");
        // What comes back starts at zero.
        let mut out = [1.0; 4];
        method.lookup(0, &[kept as u32], &mut out).unwrap();
        assert_eq!(out, [0.0; 4]);
    }
}

#[test]
fn chunks_are_kept_one_by_one() {
    let mut method = with_room(2, 1, Pruning { unit: 2, ..ROWS });
    method.train(0, &[0, 1], &[1.0, 1.0, 0.1, 0.1, 0.2, 0.2, 3.0, 3.0]).unwrap();
    method.end_step().unwrap();
    assert_eq!(dims(&method, 2), [2, 2]);
    method.train(0, &[0, 1], &[1.0; 8]).unwrap();
    let mut out = [9.0; 8];
    method.lookup(0, &[0, 1], &mut out).unwrap();
    assert!(out[0] < 0.0 && out[2] == 0.0 && out[4] == 0.0 && out[6] < 0.0, "{out:?}");
}

#[test]
fn percentiles_make_tables_compare() {
    for (scaled, kept) in [(true, [1, 0]), (false, [0, 1])] {
        let mut method = Pruned::new(&[40, 40], 4, 1 << 20, TRAINING, Pruning { scaled, ..ROWS }).unwrap();
        method.memory = Rows::zeros(1, 4, TRAINING);
        method.free = vec![0];
        // The second table's gradients are a thousand times the first's; in the first, id 0 stands out.
        for id in 0..40u32 {
            method.train(0, &[id], &[if id == 0 { 1.0 } else { 0.01 }; 4]).unwrap();
            method.train(1, &[id], &[1000.0 + id as f32; 4]).unwrap();
        }
        method.end_step().unwrap();
        let live = |feature| method.own_dims(feature, 40).iter().filter(|&&dims| dims > 0).count();
        assert_eq!([live(0), live(1)], kept);
    }
}

#[test]
fn small_tables_are_left_whole() {
    for (whole, kept) in [(0.0, 0), (0.5, 3)] {
        let pruning = Pruning { whole, ..ROWS };
        let mut method = Pruned::new(&[3, 40], 4, 20 * 36 + 43 * 8 + Ranking::BYTES, TRAINING, pruning).unwrap();
        for _ in 0..3 {
            method.train(0, &[0, 1, 2], &[0.001; 12]).unwrap();
            let ids: Vec<u32> = (0..40).chain(0..40).collect();
            method.train(1, &ids, &[5.0; 320]).unwrap();
        }
        method.pruning.scaled = false;
        method.end_step().unwrap();
        assert_eq!(method.own_dims(0, 3).iter().filter(|&&dims| dims > 0).count(), kept);
    }
}

#[test]
fn old_scores_count_less() {
    let mut method = with_room(2, 1, Pruning { period: 2, decay: 0.1, ..ROWS });
    method.train(0, &[0], &[1.0; 4]).unwrap();
    (0..4).for_each(|_| method.end_step().unwrap());
    assert_eq!(dims(&method, 2), [4, 0]);
    method.train(0, &[1], &[0.5; 4]).unwrap();
    (0..2).for_each(|_| method.end_step().unwrap());
    assert_eq!(dims(&method, 2), [0, 4]);
}

#[test]
fn what_comes_back_starts_as_asked() {
    // One row of memory that two ids hold in turn: id 0, id 1, id 0 again. What each starts with, and what it leaves.
    let turns = |start: Start| {
        let mut method = with_room(2, 1, Pruning { start, decay: 0.01, ..ROWS });
        let (mut starts, mut leaves) = (Vec::new(), Vec::new());
        for id in [0u32, 1, 0] {
            let weight = |method: &Pruned| {
                assert_eq!(method.own_dims(0, 2)[id as usize], 4);
                method.memory.row(0)[0]
            };
            method.train(0, &[id], &[1.0; 4]).unwrap();
            method.end_step().unwrap();
            starts.push(weight(&method));
            // Adagrad's first step has the length of the rate whatever the gradient; the score hardly changes.
            method.train(0, &[id], &[0.001; 4]).unwrap();
            leaves.push(weight(&method));
        }
        (starts, leaves, method)
    };
    let (zero, left, method) = turns(Start::Zero);
    assert_eq!(zero[1..], [0.0, 0.0]);
    assert!((left[1] + 0.1).abs() < 1e-5 && left[0] < -0.1, "{left:?}");
    let held = method.held();
    let (inherited, left, _) = turns(Start::Inherited);
    assert_eq!(inherited[1..], left[..2]);
    let (own, left, method) = turns(Start::Own);
    assert_eq!(own[1..], [0.0, left[0]]);
    assert_eq!(method.held(), held, "the gift is not counted");
    let (random, _, method) = turns(Start::Random(0.5));
    let wanted = [1, 0].map(|id| start::random(method.seed, (0, id), 4, 0.5)[0]);
    assert_eq!(random[1..], wanted);
}

#[test]
fn tables_with_memory_of_their_own_do_not_compete() {
    for global in [true, false] {
        let pruning = Pruning { global, scaled: false, ..ROWS };
        let budget = Ranking::BYTES + 120 * UNIT_BYTES + 60 * (Rows::row_bytes(4) + 4);
        let mut method = Pruned::new(&[40, 80], 4, budget, TRAINING, pruning).unwrap();
        assert_eq!(method.free.len(), 60);
        for _ in 0..2 {
            // The second table's gradients are a thousand times the first's.
            for (feature, ids, size) in [(0, 40u32, 1.0), (1, 80, 1000.0)] {
                let ids: Vec<u32> = (0..ids).collect();
                method.train(feature, &ids, &vec![size; ids.len() * 4]).unwrap();
            }
            method.end_step().unwrap();
        }
        let live = |feature, ids| method.own_dims(feature, ids).iter().filter(|&&dims| dims > 0).count();
        let wanted = if global { [0, 60] } else { [20, 40] };
        assert_eq!([live(0, 40), live(1, 80)], wanted);
    }
    // Whole tables have all that they need.
    let budget = Ranking::BYTES + 90 * UNIT_BYTES + 50 * (Rows::row_bytes(4) + 4);
    let method = Pruned::new(&[10, 80], 4, budget, TRAINING, Pruning { global: false, whole: 0.25, ..ROWS }).unwrap();
    assert_eq!([method.tables[0].quota, method.tables[1].quota], [10, 40]);
}

#[test]
fn a_round_is_made_if_it_is_worth_it() {
    for (worth, moved) in [(0.0, true), (0.05, true), (0.2, false)] {
        let mut method = with_room(20, 10, Pruning { worth, ..ROWS });
        let ids: Vec<u32> = (0..10).collect();
        method.train(0, &ids, &[1.0; 40]).unwrap();
        // One of ten would change hands.
        method.train(0, &[15], &[9.0; 4]).unwrap();
        method.end_step().unwrap();
        assert_eq!(dims(&method, 20)[15] == 4, moved, "{worth}");
    }
}

#[test]
fn what_finding_rows_costs_can_be_charged() {
    let made = |pruning| Pruned::new(&[5000], 4, 200_000, TRAINING, pruning).unwrap();
    let (free, charged) = (made(ROWS), made(Pruning { charge: 9, ..ROWS }));
    assert!(free.held().now <= 200_000 && charged.held().now <= 200_000 && charged.held().now > 199_900);
    // A row of memory takes 36 bytes.
    assert_eq!(free.free.len() - charged.free.len(), 5000 * 9 / 36);
    // By hash several ids share a virtual row and others stay empty.
    let distinct = |method: &Pruned| {
        (0..5000).filter_map(|id| method.row_of(0, id)).collect::<std::collections::BTreeSet<_>>().len()
    };
    assert_eq!(distinct(&free), 5000);
    let hashed = distinct(&made(Pruning { numbered: false, ..ROWS }));
    assert!((3000..3300).contains(&hashed), "{hashed} of 5000, where 1 - 1/e of them are expected");
}
