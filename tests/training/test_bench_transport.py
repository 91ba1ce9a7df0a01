"""The benchmark of the two ways an update can go moves what it says, and measures what each holds of it."""

from bench.transport import Update, measured


def test_one_way_holds_a_few_tensors_and_the_other_several_copies_of_all():
    """64 MiB in eight tensors."""
    update = Update(8)
    beside, inline = (measured(way, update.tensors) for way in ("beside", "inline"))
    assert max(beside["memory"], beside["coordinator"]) < update.size < inline["memory"]
