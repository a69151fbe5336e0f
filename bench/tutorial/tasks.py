from bench.tasks import pid

__all__ = ("pid",)
