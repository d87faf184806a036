"""Equations between labels, and what becomes of those without a solution."""

from sparsejax.coupling.labels import Labels


def test_a_product_equals_another_factor_by_factor():
    labels = Labels()
    a, b, c, d = labels.new(4)
    labels.equate([labels.product([a, b])], [labels.product([c, d])])
    assert labels.free(a) == labels.free(c) != labels.free(b) == labels.free(d)


def test_an_equation_waits_for_what_is_fixed_later():
    labels = Labels()
    a, b, c = labels.new(3)
    labels.equate([labels.product([a, b])], [labels.product([c, labels.fixed(1, "first")[0]])])
    labels.fix([a], "second")
    labels.settle()
    assert labels.free(b) == labels.free(c) != ()
    assert labels.reason(a) == "second"


def test_without_a_solution_what_differs_is_fixed():
    labels = Labels()
    a, b, c, d = labels.new(4)
    labels.equate([labels.product([a, b, c])], [labels.product([a, d])])
    labels.settle()
    assert labels.free(a) == (a,)
    assert not any(map(labels.free, (b, c, d)))


def test_a_label_cannot_be_one_of_its_own_factors():
    labels = Labels()
    a, b = labels.new(2)
    labels.equate([a], [labels.product([a, b])])
    assert labels.free(a) == (a,)
    assert labels.free(b) == ()


def test_fixing_a_product_fixes_its_factors_and_those_of_its_equals():
    labels = Labels()
    a, b, flat = labels.new(3)
    labels.equate([flat], [labels.product([a, b])])
    labels.fix([flat], "an input")
    assert [labels.reason(x) for x in (a, b, flat)] == ["an input"] * 3
