//! What is wanted of rows of logits, for a backend that looks at them where they are: tokens to choose and to score.
//!
//! Tasks and answers are words of 32 bits in the layout that kernels read and write. A task that does not fit is left for the next group.

/// Words of a task.
pub(super) const TASK_WORDS: usize = 18;
/// Words of an answer before its alternatives, which are two words each.
pub(super) const ANSWER_WORDS: usize = 8;
/// Words of an edit.
pub(super) const EDIT_WORDS: usize = 4;

/// Most alternatives of a row.
pub const MOST_ALTERNATIVES: usize = 256;

/// In the place of a mask: every token is in it.
const NO_MASK: u32 = u32::MAX;

const IS_GREEDY: u32 = 1;
const HAS_TARGET: u32 = 2;
const WANTS_FACTS: u32 = 4;
const IS_LISTED: u32 = 8;

const IS_PENALIZED: u32 = 1 << 31;
const IS_MASKED: u32 = 1 << 30;

/// The tokens there are, and words for which there is room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskLimits {
    /// Tokens.
    pub vocabulary: usize,
    /// Tasks.
    pub rows: usize,
    /// Words of edits, masks and lists of all tasks.
    pub extras: usize,
    /// Words of all answers.
    pub answers: usize,
}

impl TaskLimits {
    /// Room for one task of every row of a step, and for any single task over a vocabulary.
    pub fn new(rows: usize, vocabulary: usize) -> Self {
        let largest_extras = vocabulary * EDIT_WORDS + 2 * vocabulary.div_ceil(32) + MOST_ALTERNATIVES;
        Self { vocabulary, rows, extras: largest_extras.max(1 << 20), answers: rows * ANSWER_WORDS + (2 * MOST_ALTERNATIVES).max(1 << 16) }
    }

    /// Words of tasks and rows.
    pub(super) fn task_words(self) -> usize {
        self.rows * (1 + TASK_WORDS) + self.extras
    }
}

/// What happens to the logit of one token before the choice.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowEdit {
    /// The token; no other edit of the row has it.
    pub token: u32,
    /// Added first.
    pub bias: f32,
    /// Occurrences in the output.
    pub count: u32,
    /// The penalties apply.
    pub is_penalized: bool,
    /// It becomes minus infinity, whatever else is said.
    pub is_masked: bool,
}

/// How a token is chosen. Weights are `exp((logit - largest) * scale)`, masses weights in units of 2^-40.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowChoice {
    /// The first of the largest logits; of what follows only the penalties matter.
    pub is_greedy: bool,
    /// See above.
    pub scale: f32,
    /// Least weight.
    pub min_p: f32,
    /// Tokens that are kept; 0 = all.
    pub top_k: u32,
    /// Share of the mass that is kept, in units of 2^-64; 0 = all.
    pub nucleus: u64,
    /// Place in the mass, in units of 2^-64 of it.
    pub random: u64,
    /// Repetition, frequency and presence penalty.
    pub penalties: [f32; 3],
}

/// The token a task is about.
#[derive(Clone, Copy, Debug)]
pub enum TaskToken<'a> {
    /// This one.
    Target(u32),
    /// One that is to be chosen, of those whose bit every mask has: bit `id % 32` of word `id / 32`; missing words have none.
    Chosen(&'a RowChoice, [Option<&'a [u32]>; 2]),
}

/// What is told of a row beside the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alternatives<'a> {
    /// Nothing.
    None,
    /// Facts, and the most likely tokens, so many.
    Best(usize),
    /// Facts, and these tokens, each below the vocabulary's size.
    Listed(&'a [u32]),
}

/// A group of tasks, and their answers.
pub struct RowTasks {
    limits: TaskLimits,
    rows: Vec<u32>,
    tasks: Vec<u32>,
    extras: Vec<u32>,
    most_alternatives: usize,
    /// Rows, tasks and extras, one behind the other.
    words: Vec<u32>,
    answers: Vec<f32>,
}

impl RowTasks {
    /// No tasks yet.
    pub fn new(limits: TaskLimits) -> Self {
        let (rows, tasks, extras, words, answers) = Default::default();
        Self { limits, rows, tasks, extras, most_alternatives: 0, words, answers }
    }

    /// Takes the tasks away.
    pub fn clear(&mut self) {
        self.rows.clear();
        self.tasks.clear();
        self.extras.clear();
        self.most_alternatives = 0;
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The rows that the tasks are about.
    pub fn rows(&self) -> &[u32] {
        &self.rows
    }

    /// Adds a task about a row of the step. False if it does not fit beside the others; alone it always does.
    ///
    /// # Panics
    /// With more than [`MOST_ALTERNATIVES`].
    pub fn push(
        &mut self,
        row: u32,
        token: TaskToken<'_>,
        edits: impl ExactSizeIterator<Item = RowEdit>,
        wanted: Alternatives<'_>,
    ) -> bool {
        let listed = if let Alternatives::Listed(listed) = wanted { listed } else { &[] };
        let count = if let Alternatives::Best(count) = wanted { count } else { listed.len() };
        assert!(count <= MOST_ALTERNATIVES, "{count} alternatives of a row");
        let masks = if let TaskToken::Chosen(_, masks) = token { masks } else { [None; 2] };
        let mask_words = self.limits.vocabulary.div_ceil(32);
        let extras = EDIT_WORDS * edits.len() + listed.len() + mask_words * masks.iter().flatten().count();
        let answers = (self.rows.len() + 1) * (ANSWER_WORDS + 2 * count.max(self.most_alternatives));
        if self.rows.len() == self.limits.rows || self.extras.len() + extras > self.limits.extras || answers > self.limits.answers {
            return false;
        }
        self.most_alternatives = self.most_alternatives.max(count);
        self.rows.push(row);
        let (first_edit, edit_count) = (self.extras.len() as u32, edits.len() as u32);
        for edit in edits {
            let marks = if edit.is_penalized { IS_PENALIZED } else { 0 } | if edit.is_masked { IS_MASKED } else { 0 };
            self.extras.extend([edit.token, marks | edit.count.min(IS_MASKED - 1), edit.bias.to_bits(), 0]);
        }
        let [mask, second_mask] = masks.map(|mask| mask.map_or(NO_MASK, |mask| append(&mut self.extras, mask, mask_words)));
        let first_listed = append(&mut self.extras, listed, listed.len());
        let facts = match wanted {
            Alternatives::None => 0,
            Alternatives::Best(_) => WANTS_FACTS,
            Alternatives::Listed(_) => WANTS_FACTS | IS_LISTED,
        };
        self.tasks.extend(words_of(token, facts));
        self.tasks.extend([first_edit, edit_count, mask, second_mask, first_listed, count as u32]);
        true
    }

    /// Words of each answer.
    pub(super) fn answer_words(&self) -> usize {
        ANSWER_WORDS + 2 * self.most_alternatives
    }

    /// All words to upload; where the tasks begin, and the extras.
    pub(super) fn upload(&mut self) -> (&[u32], usize, usize) {
        self.words.clear();
        self.words.extend_from_slice(&self.rows);
        self.words.extend_from_slice(&self.tasks);
        self.words.extend_from_slice(&self.extras);
        (&self.words, self.rows.len(), self.rows.len() + self.tasks.len())
    }

    /// Room for the answers to all tasks.
    pub(super) fn answers_mut(&mut self) -> &mut [f32] {
        let words = self.len() * self.answer_words();
        self.answers.resize(words, 0.0);
        &mut self.answers
    }

    /// The answer to task `index`, after they were answered.
    pub fn answer(&self, index: usize) -> RowAnswer<'_> {
        let words = self.answer_words();
        RowAnswer { words: &self.answers[index * words..][..words] }
    }
}

/// The words of a task up to its edits.
fn words_of(token: TaskToken<'_>, facts: u32) -> [u32; TASK_WORDS - 6] {
    match token {
        TaskToken::Target(target) => [facts | HAS_TARGET, target, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        TaskToken::Chosen(choice, _) => {
            let [nucleus, random] = [choice.nucleus, choice.random].map(|number| [number as u32, (number >> 32) as u32]);
            let penalties = choice.penalties.map(f32::to_bits);
            [
                facts | if choice.is_greedy { IS_GREEDY } else { 0 },
                0,
                choice.scale.to_bits(),
                choice.min_p.to_bits(),
                choice.top_k,
                nucleus[0],
                nucleus[1],
                random[0],
                random[1],
                penalties[0],
                penalties[1],
                penalties[2],
            ]
        }
    }
}

/// Appends `count` words, zeros where there are fewer; where they begin.
fn append(extras: &mut Vec<u32>, words: &[u32], count: usize) -> u32 {
    let first = extras.len();
    extras.extend_from_slice(&words[..count.min(words.len())]);
    extras.resize(first + count, 0);
    first as u32
}

/// What became of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// This is the token.
    Token(u32),
    /// The logit of this token, the first such, is not finite.
    NonFinite(u32),
    /// No token may be chosen.
    NothingAllowed,
}

/// The answer to a task.
#[derive(Clone, Copy, Debug)]
pub struct RowAnswer<'a> {
    words: &'a [f32],
}

impl RowAnswer<'_> {
    fn word(self, index: usize) -> u32 {
        self.words[index].to_bits()
    }

    /// The token, or why there is none; with none, nothing else is told.
    pub fn outcome(self) -> Outcome {
        match self.word(0) {
            0 => Outcome::Token(self.word(1)),
            1 => Outcome::NonFinite(self.word(1)),
            _ => Outcome::NothingAllowed,
        }
    }

    /// The token's unmodified logit.
    pub fn logit(self) -> f32 {
        self.words[2]
    }

    /// 1 + how many tokens are more likely, ties by id.
    pub fn rank(self) -> u32 {
        self.word(3)
    }

    /// The largest unmodified logit.
    pub fn max(self) -> f32 {
        self.words[4]
    }

    /// Mass of `exp(logit - max)` over the unmodified row.
    pub fn mass(self) -> u64 {
        u64::from(self.word(6)) << 32 | u64::from(self.word(5))
    }

    /// Alternatives, each with its unmodified logit.
    pub fn alternatives(&self) -> impl Iterator<Item = (u32, f32)> {
        let (pairs, _) = self.words[ANSWER_WORDS..].as_chunks::<2>();
        pairs.iter().take(self.word(7) as usize).map(|pair| (pair[0].to_bits(), pair[1]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::AWAITED_TOKEN;

    const CHOICE: RowChoice =
        RowChoice { is_greedy: true, scale: 2.0, min_p: 0.0, top_k: 7, nucleus: 1 << 40, random: 3, penalties: [1.0, 0.5, 0.25] };

    #[test]
    fn a_group_takes_what_there_is_room_for() {
        let mut group = RowTasks::new(TaskLimits { vocabulary: 40, rows: 3, extras: 10, answers: 40 });
        let edit = RowEdit { token: 5, bias: 1.0, count: 3, is_penalized: true, is_masked: false };
        let chosen = TaskToken::Chosen(&CHOICE, [Some(&[1]), None]);
        assert!(group.push(9, chosen, [edit].into_iter(), Alternatives::Best(2)));
        assert!(!group.push(9, chosen, [edit].into_iter(), Alternatives::Best(2)), "extras");
        assert!(!group.push(8, TaskToken::Target(4), [].into_iter(), Alternatives::Best(7)), "answers");
        assert!(group.push(8, TaskToken::Target(4), [].into_iter(), Alternatives::Listed(&[6, 7])));
        assert!(group.push(7, TaskToken::Target(4), [].into_iter(), Alternatives::None));
        assert!(!group.push(6, TaskToken::Target(4), [].into_iter(), Alternatives::None), "rows");
        assert_eq!((group.rows(), group.answer_words()), (&[9, 8, 7][..], 12));
        let (words, first_task, first_extra) = group.upload();
        assert_eq!((first_task, first_extra), (3, 3 + 3 * TASK_WORDS));
        assert_eq!(words[first_extra..], [5, IS_PENALIZED | 3, 1.0f32.to_bits(), 0, 1, 0, 6, 7]);
        assert_eq!(words[3..][..3], [IS_GREEDY | WANTS_FACTS, 0, 2.0f32.to_bits()]);
        assert_eq!(words[3 + 12..][..6], [0, 1, 4, NO_MASK, 6, 2]);
        assert_eq!(words[3 + TASK_WORDS..][..2], [HAS_TARGET | WANTS_FACTS | IS_LISTED, 4]);
        group.clear();
        assert!(group.is_empty() && group.push(9, chosen, [edit].into_iter(), Alternatives::Best(2)));
    }

    #[test]
    fn a_task_alone_always_fits() {
        let mut group = RowTasks::new(TaskLimits::new(1, 50));
        let edits = (0..50).map(|token| RowEdit { token, bias: 0.0, count: 0, is_penalized: false, is_masked: true });
        let masks = [Some(&[u32::MAX; 2][..]); 2];
        assert!(group.push(0, TaskToken::Chosen(&CHOICE, masks), edits, Alternatives::Best(MOST_ALTERNATIVES)));
    }

    #[test]
    fn kernels_read_what_is_written_here() {
        for text in [include_str!("gpu/cuda/embed.cu"), include_str!("gpu/metal/embed.metal")] {
            assert!(text.contains("AWAITED_TOKEN = 1u << 31;") && AWAITED_TOKEN == 1 << 31);
        }
        let alternatives = format!("MOST_ALTERNATIVES = {MOST_ALTERNATIVES};");
        let flags = format!("IS_GREEDY = {IS_GREEDY}, HAS_TARGET = {HAS_TARGET}, WANTS_FACTS = {WANTS_FACTS}, IS_LISTED = {IS_LISTED} ");
        let edits = format!("EDIT_WORDS = {EDIT_WORDS};");
        for text in [include_str!("gpu/cuda/choose.cu"), include_str!("gpu/metal/choose.metal")] {
            // Words are numbered in their order; the last name is their count.
            let words = |name: &str| {
                let body = text
                    .split_once(&format!("enum {name} {{"))
                    .and_then(|(_, rest)| rest.split_once('}'))
                    .expect("there is such an enum")
                    .0;
                body.split(',').count() - 1
            };
            assert_eq!((words("TaskWord"), words("AnswerWord")), (TASK_WORDS, ANSWER_WORDS));
            for constant in [&alternatives, &flags, &edits, "IS_PENALIZED = 1u << 31", "IS_MASKED = 1u << 30", "NO_MASK = 0xffffffffu"] {
                assert!(text.contains(constant), "{constant}");
            }
        }
    }
}
