from tests.adaptation.conftest import anchored, body, digits

__all__ = ["anchored", "body", "digits"]
