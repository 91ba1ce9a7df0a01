"""A member's folder, and what a person enters: settings, keys, costs."""

import shutil
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from parties import Parties

from client import data
from client.cost import minor_units
from client.home import Home, Settings, create
from client.training import Machine
from shared_models import durable
from shared_models.folder import read_settings, write_settings
from shared_models.records.refusals import Refusal, Refused

SETTINGS = Settings(
    member="acme", ledger="http://127.0.0.1:1", superlink="127.0.0.1:2", data="x", device="cpu-core", devices=1
)


def refused(act, *arguments) -> Refused:
    with pytest.raises(Refused) as caught:
        act(*arguments)
    return caught.value


def test_keys_are_made_once_for_their_owner_s_eyes(tmp_path):
    create(tmp_path / "acme", SETTINGS)
    for path in (tmp_path / "acme" / "keys").iterdir():
        assert path.name == "node.pub" or stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "acme" / "keys").stat().st_mode) == 0o700
    with pytest.raises(FileExistsError):
        create(tmp_path / "acme", SETTINGS)


def test_settings_are_read_as_they_were_written(tmp_path):
    assert create(tmp_path / "acme", SETTINGS).settings == SETTINGS
    odd = Settings(member='a"b\\c', ledger="\t", superlink="é", data="", device="x", devices=2)
    write_settings(tmp_path / "odd.toml", odd)
    assert read_settings(tmp_path / "odd.toml", Settings) == odd


def test_the_training_process_is_told_how_its_machine_computes(tmp_path):
    home = create(tmp_path / "acme", SETTINGS)
    there = str(home.path / "models")
    assert Machine.told(home.node_config(tmp_path / "door")) == replace(Machine.told({}), models=there)
    assert Machine.told({}) == Machine()
    path = tmp_path / "acme" / "member.toml"
    told = path.read_text()
    for name in ("shard", "tensor", "compile", "recompute"):
        path.write_text(told.replace(f"{name} = false", f"{name} = true"))
        assert Machine.told(Home(tmp_path / "acme").node_config(tmp_path / "door")) == Machine(
            models=there, **{name: True}
        )
    path.write_text(told.replace("processes = 1", "processes = 2").replace('processor = "cpu"', 'processor = "cuda:1"'))
    told = Home(tmp_path / "acme").node_config(tmp_path / "door")
    assert Machine.told(told) == Machine(processor="cuda:1", processes=2, models=there)


def test_a_text_that_lies_in_the_member_s_folder_is_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for spec, text in (
        ("python-stdlib:0/3", "python-stdlib:0/3"),
        ("file:text.txt", f"file:{tmp_path}/acme/text.txt"),
        ("file:/srv/text", "file:/srv/text"),
    ):
        shutil.rmtree(tmp_path / "acme", ignore_errors=True)
        create(tmp_path / "acme", replace(SETTINGS, data=spec))
        home = Home(Path("acme"))
        assert home.text == home.node_config(tmp_path / "door")["data"] == text


def test_a_synthetic_text_is_told_and_shown_to_the_training_process_with_what_tells_of_it(tmp_path):
    home = create(tmp_path / "acme", SETTINGS)
    assert (home.synthetic, "synthetic" in home.node_config(tmp_path / "door")) == (None, False)
    for said, path in (("made", tmp_path / "acme" / "made"), ("/srv/made", Path("/srv/made"))):
        write_settings(tmp_path / "acme" / "member.toml", replace(SETTINGS, synthetic=said))
        home = Home(tmp_path / "acme")
        assert home.node_config(tmp_path / "door")["synthetic"] == str(home.synthetic) == str(path)
        assert {path, data.beside(path)} <= set(home.training_files()["read"])


@pytest.mark.parametrize("change", ["devices = 'one'", "colour = 'red'", "devices ="])
def test_wrong_settings_are_refused_by_name(tmp_path, change):
    create(tmp_path / "acme", SETTINGS)
    path = tmp_path / "acme" / "member.toml"
    path.write_text(path.read_text().replace("devices = 1", change))
    caught = refused(lambda: Home(tmp_path / "acme").settings)
    assert (caught.refusal, str(path) in caught.detail) == (Refusal.BAD_FIELD, True)


def test_a_missing_setting_is_refused(tmp_path):
    path = tmp_path / "member.toml"
    path.write_text('member = "acme"\n')
    assert refused(read_settings, path, Settings).refusal is Refusal.BAD_FIELD


def test_a_folder_that_is_not_there_is_named(tmp_path):
    home = Home(tmp_path / "nobody")
    assert refused(lambda: home.settings).refusal is Refusal.NOT_SET_UP
    assert refused(lambda: home.charter).refusal is Refusal.NOT_SET_UP


def test_everybody_holds_the_same_charter(tmp_path):
    parties = Parties(tmp_path)
    hashes = {parties.founded.member(name).charter_entry.hash for name in parties.founded.members}
    assert hashes == {parties.home.charter_entry.hash}
    parties.log.close()


@pytest.mark.parametrize(
    ("amount", "digits", "units"),
    [("12.00", 2, 1200), ("12", 2, 1200), ("0.5", 2, 50), ("7", 0, 7), ("1.234", 3, 1234)],
)
def test_amounts_become_whole_minor_units(amount, digits, units):
    assert minor_units(amount, digits) == units


@pytest.mark.parametrize("amount", ["12.345", "-1", "1e3", "1,000", "", "12.", ".5", "NaN", "٣"])
def test_an_amount_that_would_have_to_be_rounded_or_guessed_is_refused(amount):
    assert refused(minor_units, amount, 2).refusal is Refusal.BAD_FIELD


def test_a_file_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "file"
    durable.write(path, b"old")

    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space"):
            durable.write(path, b"new")
    assert path.read_bytes() == b"old"
