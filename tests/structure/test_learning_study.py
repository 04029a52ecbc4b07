"""The learning study finds the best rate of each method, and goes on where it stopped."""

import math
from pathlib import Path

import pytest

pytestmark = pytest.mark.backend_free("a search over numbers")
ROOT = Path(__file__).parents[2]
SEEDS = (0, 1)


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import learning_results

    return learning_results


def complete(study, score, middle, done=None, quick=False, fixed=False):
    """Run what is missing, with `score(rate, seed)` in place of training."""
    done = list(done or [])
    while wanted := study.next_run(done, middle, SEEDS, quick, fixed):
        rate, seed = wanted
        assert not any((run["rate"], run["seed"]) == wanted for run in done)
        done.append({"rate": rate, "seed": seed, "validation": score(rate, seed)})
        assert len(done) < 20
    return done


def peak_at(best):
    return lambda rate, seed: -abs(math.log(rate / best)) + 0.01 * seed


@pytest.mark.parametrize("best", [1e-3, 3e-3, 1e-2, 3e-2])
def test_the_best_rate_has_neighbours_and_all_seeds(study, best):
    done = complete(study, peak_at(best), middle=3e-3)
    assert study.best_rate(done) == best
    place = study.RATES.index(best)
    tried = {run["rate"] for run in done}
    assert {study.RATES[place - 1], study.RATES[place + 1]} <= tried
    assert {run["seed"] for run in done if run["rate"] == best} == set(SEEDS)
    assert len(tried) <= study.MOST


def test_a_search_ends_at_the_most_rates(study):
    done = complete(study, peak_at(1.0), middle=1e-6 * 3)
    assert len({run["rate"] for run in done}) == study.MOST


def test_a_run_that_diverged_is_not_the_best(study):
    def score(rate, seed):
        return math.nan if rate > 1e-3 else rate

    assert study.best_rate(complete(study, score, middle=1e-3)) == 1e-3


def test_it_goes_on_where_it_stopped(study):
    whole = complete(study, peak_at(1e-2), middle=3e-3)
    for length in range(len(whole)):
        assert complete(study, peak_at(1e-2), middle=3e-3, done=whole[:length]) == whole


def test_quick_and_fixed(study):
    assert len(complete(study, peak_at(1e-2), middle=3e-3, quick=True)) == 3
    done = complete(study, peak_at(1e-2), middle=3e-3, fixed=True)
    assert [(run["rate"], run["seed"]) for run in done] == [(3e-3, 0), (3e-3, 1)]


def test_the_page_has_the_table_of_the_results(study):
    found = study.load(ROOT / "benchmarks" / "learning.json")
    assert found["runs"]
    page = (ROOT / "guides" / "learning.md").read_text()
    assert study.with_table(page, study.table(found)) == page


def test_the_page_of_schedules_has_its_tables(study):
    import mechanism_results

    found = mechanism_results.load(ROOT / "benchmarks" / "mechanisms.json")
    assert all(found.values())
    page = (ROOT / "guides" / "schedules_and_rules.md").read_text()
    assert mechanism_results.with_tables(page, found) == page


def test_a_table_of_few_results(study, tmp_path):
    assert study.load(tmp_path / "none.json") == {"runs": [], "costs": [], "finder": []}
    key = {"task": "images", "name": "SVF()"}
    runs = [
        key | {"rate": rate, "seed": seed, "validation": score, "test": score, "values": 1234}
        for rate, seed, score in ((0.01, 0, 0.5), (0.03, 0, 0.7), (0.03, 1, 0.9))
    ]
    costs = [key | {"step": 0.25, "memory": None}]
    table = study.table({"runs": runs, "costs": costs, "finder": [key | {"suggestion": 0.02}]})
    grid = "0.01: 0.500, 0.03: 0.700"
    row = f"| images | `SVF()` | 1,234 | 0.03 | 0.800 ± 0.100 | {grid} | 0.02 | 250 | |"
    assert table.splitlines()[2:] == [row]
