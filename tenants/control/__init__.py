"""Changes to what is in force for tenants: who made them, whether they may stand, where they are kept, who must hear.

Plain classes around the store and the settings in force. They know neither HTTP nor Ray.
"""
