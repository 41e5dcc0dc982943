"""What each check means and what to do when it does not pass, for whoever is woken by it.

The Dagster UI shows both beside a check, alerts bring the second, and so does the verification report.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """One check.

    Attributes:
        meaning: What holds where the check passes, and why it matters.
        remedy: What to do where it does not.
    """

    meaning: str
    remedy: str


RUNBOOK = {
    # concepts
    "order_is_unambiguous": Entry(
        "Every article's concepts have one order, decided by a rule. A model learns what follows what; in a wrong "
        "order it learns nothing.",
        "Fill document_id with sequence_index, or chunk_position, or name the columns that hold the order: "
        "LVM_ARTICLE_COLUMN and LVM_POSITION_COLUMN.",
    ),
    "articles_are_contiguous": Entry(
        "Each article is one unbroken run of rows, so that windows can be cut by row numbers.",
        "The file was written by something else or damaged: materialise concepts again.",
    ),
    "positions_have_no_gap": Entry(
        "Positions in an article count 0, 1, 2 and so on. A gap is a concept that was lost, and a pair of "
        "neighbours that never were.",
        "Load the articles that are named again, whole.",
    ),
    "every_concept_has_a_vector": Entry(
        "Each concept has its vector in cpe_vectors (or beside its text).",
        "Encode the concepts that are named, or delete them together with the rest of their articles.",
    ),
    "vectors_are_finite_and_of_one_width": Entry(
        "All vectors have one width and no NaN or infinity.",
        "Encode the concepts that are named again, with the encoder that made the others.",
    ),
    "vectors_match_their_space": Entry(
        "The vectors are what their space says: lengths fit, and some texts encoded again give the same vectors. "
        "Vectors of two encoders cannot be mixed.",
        "Find out which encoder made them; encode everything with one, or name the true one: LVM_SPACE_ID.",
    ),
    "cpe_ids_are_unique": Entry(
        "No two rows share a cpe_id.",
        "A join doubled rows, or a load ran twice under other keys: remove the second copies from the table.",
    ),
    "no_duplicate_concepts": Entry(
        "No concept repeats another's text or vector. A copy in two splits is a test item that was learnt by heart.",
        "Delete the copies, or let the extraction drop them: LVM_DUPLICATES=drop.",
    ),
    "texts_are_not_empty": Entry(
        "Every concept has a text that is more than white space.",
        "Give the rows that are named their text, or delete them.",
    ),
    "tmd_codes_are_assigned": Entry(
        "Every concept has domain, task and modifier codes, and not 0, 0, 0, which says that assigning them failed. "
        "Training does not need them; the watch over their mix does.",
        "Run whatever assigns the codes over the rows that are named. Without such a thing, leave it.",
    ),
    "tmd_packing_is_known": Entry(
        "The codes are in their ranges (15, 31, 63), and packed codes agree with them.",
        "The codes were packed by another rule than d<<11 | t<<6 | m: unpack them by that one, or drop the column.",
    ),
    "articles_are_long_enough": Entry(
        "Every article has a context and a target. A shorter one gives no window.",
        "Nothing, where such articles are meant to be; else look for articles that were cut up or lost concepts.",
    ),
    # concepts, beside those of the champion
    "num_concepts_is_as_before": Entry(
        "The table has neither lost a tenth nor doubled since the champion was trained.",
        "Look at the articles that left or arrived (reports/drift.md): a load that failed halfway, a filter that "
        "changed, or real growth. After real growth train again.",
    ),
    "article_lengths_are_as_before": Entry(
        "Articles that arrived are as long as those before.",
        "Look at the articles in reports/drift.md: other chunking makes other lengths. Where it is meant, train again.",
    ),
    "mean_vector_is_as_before": Entry(
        "The mean vector has not moved further than whole articles move it by chance.",
        "Look at the articles in reports/drift.md: another subject, language, encoder? Where it is meant, train again.",
    ),
    "vector_dimensions_are_as_before": Entry(
        "No dimension of the vectors is distributed otherwise than before.",
        "Look at the dimensions and articles in reports/drift.md: one dimension alone hints at the encoder, many at "
        "the text. Where it is meant, train again.",
    ),
    "vectors_cannot_be_told_apart": Entry(
        "A classifier cannot tell the vectors that arrived from those before.",
        "Look at the articles in reports/drift.md: what arrived is of another kind. Where it is meant, train again.",
    ),
    "tmd_mix_is_as_before": Entry(
        "Domains, tasks and modifiers come as often as before.",
        "Look at the codes in reports/drift.md: another mix of articles, or another way of assigning codes.",
    ),
    # sequences
    "windows_stay_inside_articles": Entry(
        "Every context lies in one article, together with its target.",
        "Materialise sequences again; do not train on this file.",
    ),
    "window_count_is_exact": Entry(
        "One window for each target that a full context precedes: the sum over articles of max(0, n - context).",
        "Materialise sequences again; do not train on this file.",
    ),
    "articles_are_in_one_split": Entry(
        "Every article is in one split with all its windows, so that what is scored was never trained on.",
        "Materialise sequences again, or mend the list of validation articles.",
    ),
    "no_near_duplicate_across_splits": Entry(
        "No concept has a near-copy, by text or vector, in another split.",
        "Delete the copies that are named, or move their articles to one split (the seeded rule does so by itself).",
    ),
    "every_split_has_sequences": Entry(
        "Train, validation and test all hold windows.",
        "Load more articles, or name more articles for the empty split.",
    ),
    "sequences_do_not_leak": Entry(
        "Windows and splits keep to whole articles. In the compatibility mode they do not, and scores say nothing "
        "about unseen articles.",
        "Unset LVM_BOUNDARIES and LVM_SPLIT, unless you want the original numbers for comparison.",
    ),
    # trained model and its report
    "checkpoint_reproduces_its_score": Entry(
        "The saved weights, loaded in another process, score what the training recorded.",
        "Do not use the model. Train again; should it come back, the architecture keeps state outside its weights.",
    ),
    "prediction_is_not_the_mean_vector": Entry(
        "Predictions depend on their context. Always answering the mean vector has a fair cosine and no use.",
        "Train again with a smaller learning rate or another objective; look at the learning curve first.",
    ),
    "preset_has_its_declared_size": Entry(
        "The preset has exactly the parameters that its architecture declares.",
        "The code of the architecture changed: mend it, or declare the new size.",
    ),
    "no_objective_term_dominates": Entry(
        "No term of a mixed objective has nearly all of the gradient or of the loss.",
        "Weigh the term that is named less, or leave the others out.",
    ),
    "training_takes_under_an_hour": Entry(
        "The training took less than the hour that the request allows.",
        "Take a smaller preset, fewer epochs, or a GPU.",
    ),
    "pool_is_declared_and_clean": Entry(
        "Retrieval was scored among all concepts of the split, each once, the context left out by a named rule.",
        "Do not compare these ranks. Materialise sequences and the report again.",
    ),
    "beats_best_baseline": Entry(
        "The model's cosine is above the best arithmetic's on the same targets, whole articles resampled. Otherwise "
        "the arithmetic is the better model.",
        "Keep the champion. Train longer or on more articles, or take another architecture or preset.",
    ),
    "cosine_is_above_minimum_viable": Entry(
        "The request's first bar, 0.70. It was stated for GTR-T5 vectors, and clean data never reached it there.",
        "Judge a model by its gain over the best baseline.",
    ),
    "cosine_is_above_production": Entry(
        "The request's second bar, 0.85. It was stated for GTR-T5 vectors, and clean data never reached it there.",
        "Judge a model by its gain over the best baseline.",
    ),
    "inference_takes_under_50_ms": Entry(
        "95 % of single predictions take less than 50 milliseconds.",
        "Take a smaller preset or a GPU; see whether something else kept the machine busy.",
    ),
}


def in_words(check: str) -> str:
    """Return meaning and remedy of a check; of somebody else's the name, which is a statement too."""
    entry = RUNBOOK.get(check)
    if entry is None:
        return check.replace("_", " ").capitalize() + "."
    return f"{entry.meaning} If not: {entry.remedy}"


def remedy_of(check: str) -> str | None:
    """Return what to do where a check does not pass; nothing for a check of somebody else's."""
    entry = RUNBOOK.get(check)
    return None if entry is None else entry.remedy
