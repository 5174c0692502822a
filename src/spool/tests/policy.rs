//! When segments go, tried on a model: so much mail comes a second and is delivered at once, what lives in front of it stays or leaves
//! slowly, and survivors are copied at some speed. The log has to keep to its share of the bound on disk use all the time.

use std::time::Duration;

use crate::spool::index::Place;
use crate::spool::space::{Segments, Use};

const MB: u64 = 1_000_000;
const SEGMENT: u64 = 64 << 20;
/// A message of the model.
const SIZE: u32 = 50_000;
const TICK: Duration = Duration::from_millis(10);
/// A released segment's mark, and its name.
const MARK: Duration = Duration::from_millis(200);

/// What happens in a model; bytes, and bytes a second.
#[derive(Clone, Copy, Debug)]
struct Story {
    /// Lives at the beginning.
    living: u64,
    /// Comes, and is delivered at once.
    arriving: u64,
    /// Of what lives so much leaves.
    leaving: u64,
    /// Survivors are copied as fast as this,
    copying: u64,
    /// but as fast as this if nothing presses.
    rate: u64,
    seconds: u64,
}

struct Model {
    segments: Segments,
    open: u64,
    in_open: u64,
    /// Where what lives lies, by segment.
    living: std::collections::BTreeMap<u64, u64>,
    now: Duration,
}

fn place(segment: u64) -> Place {
    Place { segment, offset: 0, length: SIZE }
}

impl Model {
    fn write(&mut self) -> u64 {
        if self.in_open + u64::from(SIZE) > SEGMENT {
            (self.open, self.in_open) = (self.open + 1, 0);
        }
        self.in_open += u64::from(SIZE);
        self.segments.grow(self.open, u64::from(SIZE));
        self.open
    }

    fn accept(&mut self) {
        let segment = self.write();
        self.segments.count_live(place(segment), true);
        *self.living.entry(segment).or_default() += 1;
    }

    fn end(&mut self, segment: u64) {
        self.segments.count_live(place(segment), false);
        *self.living.get_mut(&segment).unwrap() -= 1;
    }

    /// Copies the next survivor of a segment, if there is one.
    fn copy(&mut self, from: u64) -> bool {
        let Some(left) = self.living.get_mut(&from).filter(|left| **left > 0) else { return false };
        *left -= 1;
        let to = self.write();
        self.segments.move_live(place(from), place(to));
        *self.living.entry(to).or_default() += 1;
        true
    }
}

/// What is carried from tick to tick of a rate.
#[derive(Default)]
struct Tap(f64);

impl Tap {
    fn messages(&mut self, rate: u64) -> u64 {
        self.0 += rate as f64 * TICK.as_secs_f64() / f64::from(SIZE);
        let whole = self.0.floor();
        self.0 -= whole;
        whole as u64
    }
}

/// The largest share of twice what lives and two segments that the log ever takes, and how much is copied for a byte that comes.
fn tell(story: Story) -> (f64, f64) {
    let segments = Segments::new([(1, Use::default())].into());
    let mut model = Model { segments, open: 1, in_open: 0, living: Default::default(), now: Duration::ZERO };
    for _ in 0..story.living / u64::from(SIZE) {
        model.accept();
    }
    let (mut arriving, mut leaving, mut copying) = (Tap::default(), Tap::default(), Tap::default());
    let (mut share, mut arrived, mut copied, mut gone) = (0.0_f64, 0, 0, 0);
    // What is copied now: since when, and how much of it as fast as could be.
    let mut release: Option<(u64, u64, Duration)> = None;
    let mut marked = None;
    while model.now < Duration::from_secs(story.seconds) {
        model.now += TICK;
        for _ in 0..arriving.messages(story.arriving) {
            model.accept();
            let open = model.open;
            model.end(open);
            arrived += 1;
        }
        for _ in 0..leaving.messages(story.leaving) {
            // From anywhere.
            gone = (gone + 7919) % model.open + 1;
            if let Some(segment) = model.living.range(gone..).chain(model.living.range(..gone)).find(|(_, left)| **left > 0) {
                let segment = *segment.0;
                model.end(segment);
            }
        }
        model.segments.look(model.now);
        let pressed = model.segments.is_pressing(SEGMENT, model.open);
        let budget = copying.messages(if pressed { story.copying } else { story.rate.min(story.copying) });
        if let Some((segment, until)) = marked {
            if model.now >= until {
                model.segments.remove(segment);
                marked = None;
            }
        } else if let Some((segment, bytes, fast)) = release.take() {
            let done = (0..budget).take_while(|_| model.copy(segment)).count() as u64;
            copied += done;
            let (bytes, fast) = if pressed { (bytes + done * u64::from(SIZE), fast + TICK) } else { (bytes, fast) };
            if done < budget {
                if bytes > SEGMENT / 8 {
                    model.segments.note_copied(bytes, fast);
                }
                marked = Some((segment, model.now + MARK));
            } else {
                release = Some((segment, bytes, fast));
            }
        } else {
            release = model.segments.candidate(SEGMENT, model.open).map(|segment| (segment, 0, Duration::ZERO));
        }
        let Use { used, live_bytes, .. } = model.segments.total();
        // Room is reserved ahead of the end, and there is the reserve.
        let disk = used + SEGMENT / 8 + (8 << 20);
        share = share.max(disk as f64 / (2 * live_bytes + 2 * SEGMENT) as f64);
    }
    (share, copied as f64 / arrived as f64)
}

#[test]
fn the_log_keeps_to_its_bound_whatever_lives_in_front_of_what_is_dead() {
    let stays = Story { living: 430 * MB, arriving: 12_500_000, leaving: 0, copying: 0, rate: 32 << 20, seconds: 300 };
    let drains = Story { living: 670 * MB, arriving: 8_400_000, leaving: 4_100_000, seconds: 150, ..stays };
    let quick = Story { living: 430 * MB, arriving: 40 * MB, ..stays };
    let small = Story { living: 40 * MB, arriving: 40 * MB, ..stays };
    let mut failed = Vec::new();
    for story in [stays, drains, quick, small] {
        for copying in [20, 30, 60, 120, 250] {
            let story = Story { copying: copying * MB, ..story };
            let (share, cost) = tell(story);
            println!("{:.0} % of the bound, {cost:.2} bytes copied a byte that comes: {story:?}", share * 100.0);
            if share > 1.0 && copying * MB > story.arriving * 3 / 2 {
                failed.push((share, story));
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}
