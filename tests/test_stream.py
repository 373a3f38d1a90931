"""A network on a stream keeps twenty times ahead of the signal, measured where no notebook shares the processor"""
from copy import deepcopy

import numpy as np

from medfolio.models.eeg import eeg_net
from medfolio.training.stream import Networked, Stream, pace


def test_a_network_on_a_stream_is_twenty_times_as_fast_as_the_signal():
    x = (1e3*np.random.default_rng(0).normal(size=(2400, 32))).astype(np.float32)
    d, best = Networked(eeg_net('residual').eval(), 2048, 2, block=1), 0.
    for _ in range(24):  # copies in turn, for a machine that is busy at times
        best = max(best, pace(Stream(deepcopy(d), 32), x).speed)
        if best > 20: break
    assert best > 20
