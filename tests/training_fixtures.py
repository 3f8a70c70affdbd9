"""What tests of the training work on: its backend table, and three objects."""

import pytest
import torch


@pytest.fixture
def training_backends():
    from training import operations

    return operations.table()


@pytest.fixture
def trained_on():
    from training import objects

    return objects.sample(3, torch.Generator().manual_seed(0))
