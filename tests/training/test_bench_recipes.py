"""The benchmark of ways to lower the cost of training: what it tells beside its own rows."""

from bench import experts, offpeak, recipes


def test_its_figures_are_those_of_members_experts_and_of_spot_machines_too():
    asked = {recipes.FORMULA, recipes.EXPORT, "expert_optout_works", "spot_resume_equal"}
    assert asked <= recipes.MEANING.keys()
    assert recipes.MEANING["expert_optout_works"] == experts.MEANING["expert_optout_works"]
    assert recipes.MEANING["spot_resume_equal"] == offpeak.MEANING["spot_resume_equal"]
