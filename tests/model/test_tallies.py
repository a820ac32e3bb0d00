import torch

from model.tallies import Tally, means, tally


def test_every_element_weighs_the_same_and_what_an_update_adds_up_is_a_mean_over_updates():
    watched = [
        {"ratio": tally(torch.tensor([1.0, 2.0, 3.0])), "loss": Tally(1.0)},
        {"ratio": tally(torch.tensor([10.0])), "loss": Tally(2.0), "rate": Tally(0.5, 1)},
        {"outside": tally(torch.tensor([True, False])), "rate": Tally(0.7, 1)},
    ]
    assert means(watched, 2) == {"ratio": 4.0, "loss": 1.5, "rate": 0.6, "outside": 0.5}
